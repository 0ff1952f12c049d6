"""Dagster's runs and events in a real PostgreSQL, as deploy/postgres/dagster.yaml sets it up."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ft_pipeline.finetuning.lease import hold_device
from ft_pipeline.operations.dagster_home import examine_dagster
from ft_pipeline.operations.finding import Finding
from ft_pipeline_tests.dagster_server import DagsterServer, serve, wait_until
from ft_pipeline_tests.postgres_server import PASSWORD, PostgresServer, serve_postgres
from ft_pipeline_tests.user_project import make_project

pytestmark = pytest.mark.slow
CONFIG = "deploy/postgres/dagster.yaml"
# How often the daemon looks at its queue.
_DEQUEUE_SECONDS = 5.0


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    with serve_postgres() as running:
        yield running


@pytest.fixture
def root(tmp_path: Path, tiny_base: Path, database: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own project, whose processes know where PostgreSQL is."""
    monkeypatch.setenv("DAGSTER_PG_URL", database.url)
    return make_project(tmp_path / "root", tiny_base, monkeypatch)


def test_runs_of_the_command_line_and_of_the_daemon_share_one_history_and_one_queue(
    root: Path, tmp_path: Path, project: Path
) -> None:
    with serve(tmp_path / "home", project, {}, CONFIG) as server:
        _materialize(server, "raw_dataset,validated_dataset")
        by_hand = _list_runs(server)
        assert list(by_hand.values()) == ["SUCCESS"]

        with hold_device("cpu", lock_dir=root / "locks", timeout_seconds=0, holder="a colleague", tell=lambda _: None):
            first = server.launch("trained_adapter")
            wait_until(lambda: _says(server, first, "waiting for cpu"), 60, lambda: server.read_log(first))
            second = server.launch("trained_adapter")
            time.sleep(2 * _DEQUEUE_SECONDS)
            assert server.read_status(second) == "QUEUED", "one run in the pool at a time"
            server.terminate(first)
            wait_until(lambda: server.read_status(second) == "STARTED", 60, lambda: server.read_log(second))
            server.terminate(second)
            wait_until(lambda: server.read_status(second) == "CANCELED", 60, lambda: server.read_log(second))

        said = "\n".join([*server.read_log(first), server.ask("{ instance { info } }")["instance"]["info"]])
        assert "granularity: run" in said
        assert PASSWORD not in said
        written = [path for path in server.home.rglob("*") if path.is_file()]
        assert server.home / "dev.log" in written
        assert [str(path) for path in written if PASSWORD.encode() in path.read_bytes()] == []
        assert not list(server.home.rglob("*.db")), "nothing of it is in SQLite"

    # All servers are gone: what another process of another home sees is what PostgreSQL has kept.
    kept = _list_kept(tmp_path / "other", project)
    assert [run_id for run_id in (*by_hand, first, second) if run_id not in kept] == []


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


def _examine(home: Path, url: str) -> Finding:
    return next(found for found in examine_dagster(home, lambda _: url) if found.subject == "Dagster's storage")


def _list_kept(home: Path, project: Path) -> str:
    """What `dagster run list` says there."""
    home.mkdir()
    (home / "dagster.yaml").write_text((project / CONFIG).read_text())
    every = os.environ | {"DAGSTER_HOME": str(home)}
    listed = [sys.executable, "-m", "dagster", "run", "list"]
    return subprocess.run(listed, env=every, cwd=home, check=True, capture_output=True, text=True).stdout


def _materialize(server: DagsterServer, selection: str) -> None:
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "ft_pipeline.definitions"]
    done = subprocess.run(
        [*command, "--select", selection],
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


def _says(server: DagsterServer, run_id: str, words: str) -> bool:
    return any(words in message for message in server.read_log(run_id))
