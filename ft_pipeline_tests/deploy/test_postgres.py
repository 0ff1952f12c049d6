"""Dagster's runs and events in a real PostgreSQL, as deploy/postgres/dagster.yaml sets it up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from ft_pipeline.defs.history import main as remove_history
from ft_pipeline.operations.dagster_home import examine_dagster
from ft_pipeline.operations.finding import Finding
from ft_pipeline_tests.dagster_server import DagsterServer, serve, wait_until
from ft_pipeline_tests.postgres_server import PASSWORD, PostgresServer, serve_postgres
from ft_pipeline_tests.user_project import make_project

pytestmark = pytest.mark.slow
CONFIG = "deploy/postgres/dagster.yaml"


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    with serve_postgres() as running:
        yield running


@pytest.fixture
def root(tmp_path: Path, tiny_base: Path, database: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own project, whose processes know where PostgreSQL is."""
    monkeypatch.setenv("DAGSTER_PG_URL", database.url)
    return make_project(tmp_path / "root", tiny_base, monkeypatch)


@pytest.mark.usefixtures("root")
def test_runs_of_the_command_line_and_of_the_daemon_share_one_history_and_one_queue(
    tmp_path: Path, project: Path
) -> None:
    with serve(tmp_path / "home", project, {}, CONFIG) as server:
        _dagster(server, "asset", "materialize", "-m", "ft_pipeline.definitions", "--select", "raw_dataset")
        by_hand = _list_runs(server)
        assert list(by_hand.values()) == ["SUCCESS"]

        _dagster(server, "instance", "concurrency", "set", "gpu", "0")
        waiting, other = server.launch("trained_adapter"), server.launch("raw_dataset")
        wait_until(lambda: server.read_status(other) == "SUCCESS", 90, lambda: server.read_log(other))
        assert server.read_status(waiting) == "QUEUED", "the pool has no place for it"
        _dagster(server, "instance", "concurrency", "set", "gpu", "1")
        wait_until(lambda: server.read_status(waiting) == "FAILURE", 90, lambda: server.read_log(waiting))
        # Its input was never made: it has begun, which is all that is asked here.
        said = "\n".join(server.read_log(waiting))
        assert 'Execution of step "trained_adapter" failed' in said

        shown = server.ask("{ instance { info } }")["instance"]["info"]
        assert "granularity: run" in shown
        assert PASSWORD not in said + shown
        written = [path for path in server.home.rglob("*") if path.is_file()]
        assert server.home / "dev.log" in written
        assert [str(path) for path in written if PASSWORD.encode() in path.read_bytes()] == []
        assert not list(server.home.rglob("*.db")), "nothing of it is in SQLite"

    # All servers are gone: what another process of another home sees is what PostgreSQL has kept.
    kept = _list_kept(tmp_path / "other", project)
    assert [run_id for run_id in (*by_hand, waiting, other) if run_id not in kept] == []


def test_old_runs_go_from_it_too(
    database: PostgresServer, tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dagster.yaml").write_text((project / CONFIG).read_text())
    settings = {"DAGSTER_HOME": tmp_path, "DAGSTER_PG_URL": database.url, "FT_PIPELINE_ARTIFACTS": tmp_path / "store"}
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(tmp_path)

    @dg.asset
    def number() -> None: ...

    with dg.DagsterInstance.get() as instance:
        before = set(instance.get_run_ids())
        old, recent = (dg.materialize([number], instance=instance).run_id for _ in range(2))
        _make_old(database, old)
        CliRunner().invoke(remove_history, ["--last", "0"], catch_exceptions=False)
        assert set(instance.get_run_ids()) == {*before, recent}
        assert len(instance.fetch_materializations(dg.AssetKey("number"), limit=9).records) == 1


def test_the_doctor_finds_the_database_and_says_nothing_of_the_password(
    database: PostgresServer, tmp_path: Path, project: Path
) -> None:
    (tmp_path / "dagster.yaml").write_text((project / CONFIG).read_text())
    urls = {"right": database.url, "wrong": database.url.replace(PASSWORD, f"{PASSWORD}x")}
    found = {name: _examine(tmp_path, url) for name, url in urls.items()}
    assert found["right"].fix == ""
    assert found["right"].state.startswith("PostgreSQL at 127.0.0.1:")
    assert "password authentication failed" in found["wrong"].state
    assert found["wrong"].fix
    assert PASSWORD not in str(found)


def _make_old(database: PostgresServer, run_id: str) -> None:
    """As if the run had ended long ago."""
    statement = f"UPDATE runs SET end_time = 0 WHERE run_id = '{run_id}'"  # noqa: S608 - an id of Dagster's own
    url = database.url.replace("+psycopg2", "")
    subprocess.run([str(database.programs / "psql"), "--quiet", "--command", statement, url], check=True)


def _examine(home: Path, url: str) -> Finding:
    return next(found for found in examine_dagster(home, lambda _: url) if found.subject == "Dagster's storage")


def _list_kept(home: Path, project: Path) -> str:
    """What `dagster run list` says there."""
    home.mkdir()
    (home / "dagster.yaml").write_text((project / CONFIG).read_text())
    every = os.environ | {"DAGSTER_HOME": str(home)}
    listed = [sys.executable, "-m", "dagster", "run", "list"]
    return subprocess.run(listed, env=every, cwd=home, check=True, capture_output=True, text=True).stdout


def _dagster(server: DagsterServer, *words: str) -> None:
    """Dagster's command line, in a process beside the server's."""
    done = subprocess.run(
        [sys.executable, "-m", "dagster", *words],
        env=os.environ | {"DAGSTER_HOME": str(server.home)},
        cwd=server.home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert PASSWORD not in done.stdout + done.stderr


def _list_runs(server: DagsterServer) -> dict[str, str]:
    found = server.ask("{ runsOrError { ... on Runs { results { runId status } } } }")["runsOrError"]["results"]
    return {run["runId"]: run["status"] for run in found}
