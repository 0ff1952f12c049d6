from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ft_pipeline.operations.run_history import FinishedRun, Rule, find_expired_runs, find_old_logs, remove_logs

NOW = datetime(2026, 11, 27, tzinfo=UTC)
RUNS = [FinishedRun(f"run-{days}", NOW - timedelta(days=days)) for days in (100, 10, 95, 1, 200)]


@pytest.mark.parametrize(
    ("days", "last", "recorded", "gone"),
    [
        (90, 0, [], {"run-95", "run-100", "run-200"}),
        (90, 3, [], {"run-100", "run-200"}),
        (90, 9, [], set()),
        (90, 0, ["run-200"], {"run-95", "run-100"}),
        (5, 0, [], {"run-10", "run-95", "run-100", "run-200"}),
    ],
)
def test_old_runs_go_but_for_the_last_and_those_on_record(
    days: int, last: int, recorded: list[str], gone: set[str]
) -> None:
    assert set(find_expired_runs(RUNS, recorded, Rule(NOW, days, last))) == gone


def test_old_logs_go_with_their_folders_and_those_of_runs_that_stay_do_not(tmp_path: Path) -> None:
    ages = {"kept/compute_logs/a.out": 100, "gone/compute_logs/a.out": 100, "sensor/1.err": 100, "sensor/2.err": 1}
    ages["notes.txt"] = 100
    for name, days in ages.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        os.utime(path, (0, (NOW - timedelta(days=days)).timestamp()))
    found = find_old_logs(tmp_path, {"kept"}, Rule(NOW, 90, 0))
    assert {str(path.relative_to(tmp_path)) for path in found} == {"gone/compute_logs/a.out", "sensor/1.err"}
    remove_logs(tmp_path, found)
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "sensor", "notes.txt"}
    assert (tmp_path / "sensor/2.err").exists()
