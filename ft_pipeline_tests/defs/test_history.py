"""What `make gc` removes of Dagster's own history."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from ft_pipeline.defs.history import main
from ft_pipeline_tests.test_retention import Machine

LONG_AGO = time.time() - 200 * 86400


@pytest.fixture
def instance(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> dg.DagsterInstance:
    """An instance of the project's configuration, and an artifact store beside it."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text((project / "dagster.yaml").read_text())
    monkeypatch.chdir(home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("FT_PIPELINE_ARTIFACTS", str(tmp_path / "artifacts"))
    return dg.DagsterInstance.get()


@dg.job
def idle() -> None:
    """Nothing, which waits for its turn."""


def _run(instance: dg.DagsterInstance, *, fails: bool = False) -> str:
    @dg.asset
    def number() -> None:
        if fails:
            raise ValueError("on purpose")

    return dg.materialize([number], instance=instance, raise_on_error=False).run_id


def _make_old(instance: dg.DagsterInstance, home: Path, run_id: str) -> None:
    """As if the run had ended long ago."""
    with sqlite3.connect(home / "history/runs.db") as database:
        database.execute("UPDATE runs SET end_time = ? WHERE run_id = ?", (LONG_AGO, run_id))
    for path in (home / f".dagster/logs/{run_id}").rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    assert instance.get_run_by_id(run_id)


def _count_events(instance: dg.DagsterInstance) -> int:
    fetched = instance.fetch_materializations(dg.AssetKey("number"), limit=100)
    return len(fetched.records)


def test_old_runs_go_with_their_events_and_files_and_the_others_stay(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    failed = _run(instance, fails=True)
    old, recorded, recent = (_run(instance) for _ in range(3))
    for run_id in (old, failed, recorded):
        _make_old(instance, home, run_id)
    waiting = instance.create_run_for_job(idle).run_id
    machine = Machine(tmp_path / "artifacts")
    machine.run(1)
    (machine.store.root / "_runs/mine-1.json").rename(machine.store.root / f"_runs/{recorded}.json")

    everything = {old, failed, recorded, recent, waiting}
    dry = CliRunner().invoke(main, ["--last", "0", "--dry-run"], catch_exceptions=False)
    assert "Dagster's runs: 5, would go: 2" in dry.output
    assert set(instance.get_run_ids()) == everything
    done = CliRunner().invoke(main, ["--last", "0"], catch_exceptions=False)
    assert "Dagster's runs: 5, gone: 2" in done.output
    assert set(instance.get_run_ids()) == {recorded, recent, waiting}
    assert _count_events(instance) == 2
    left = {path.name.partition(".")[0] for path in (home / "history/runs").iterdir()}
    assert not left & {old, failed}
    assert {recorded, recent} <= left
    logs = {path.name for path in (home / ".dagster/logs").iterdir()}
    assert not logs & {old, failed}
    assert {recorded, recent} <= logs


def test_the_last_runs_stay_however_old(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    old = _run(instance)
    _make_old(instance, tmp_path / "home", old)
    CliRunner().invoke(main, [], catch_exceptions=False)
    assert instance.get_run_ids() == [old]


def test_without_a_home_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    done = CliRunner().invoke(main, [], catch_exceptions=False)
    assert done.exit_code == 0
    assert "no history to look after" in done.output
