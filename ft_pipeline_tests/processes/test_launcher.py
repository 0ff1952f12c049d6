from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ft_pipeline.errors import DatasetError, StageProcessError
from ft_pipeline.file_lock import lock_file
from ft_pipeline.processes.child import GRACE_SECONDS
from ft_pipeline.processes.launcher import StageResult, run_stage
from ft_pipeline_tests.processes.stages import PlayRequest

_PARENT = """
import sys
from pathlib import Path
from ft_pipeline.file_lock import lock_file
from ft_pipeline_tests.processes.test_launcher import run_play
folder = Path(sys.argv[2])
with lock_file(folder / "lock") as lock:
    run_play(sys.argv[1], folder, lock=lock)
"""


class Ear:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def info(self, message: str) -> None:
        self.heard.append(message)

    def warning(self, message: str) -> None:
        self.heard.append(("warning", message))

    def progress(self, done: int, total: int, **figures: float) -> None:
        self.heard.append((done, total, figures))


def run_play(act: str, folder: Path, ear: Ear | None = None, lock: int | None = None) -> StageResult:
    """Run the test stage in a child process."""
    return run_stage(
        "ft_pipeline_tests.processes.stages:play",
        PlayRequest(act=act, path=folder / "pids"),
        reporter=ear or Ear(),
        log_path=folder / "stage.log",
        lock=lock,
    )


@pytest.fixture(autouse=True)
def _test_stage(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(project))


def test_words_figures_and_the_result_come_back(tmp_path: Path) -> None:
    ear = Ear()
    result = run_play("succeed", tmp_path, ear)
    assert result.summary.figures == {"answer": 42}
    assert result.peak_rss_bytes > 10 << 20
    assert ear.heard == ["hello", (1, 2, {"loss": 0.5})]
    assert "chatter of a library" in (tmp_path / "stage.log").read_text()


def test_a_stage_is_given_no_key_of_dagsters_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAGSTER_PG_URL", "FT_PIPELINE_ALERT_WEBHOOK", "OF_THE_STAGE"):
        monkeypatch.setenv(name, "https://me:S3CRET@host")
    run_play("list variables", tmp_path)
    given = (tmp_path / "pids").read_text().splitlines()
    assert "OF_THE_STAGE" in given
    assert [name for name in given if name.startswith(("DAGSTER_PG", "FT_PIPELINE_ALERT"))] == []


def test_an_error_of_the_pipeline_comes_back_as_itself(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="rule, value, place, fix"):
        run_play("refuse", tmp_path)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        ("crash", "failed: ZeroDivisionError: unforeseen"),
        ("die", r"(?s)killed by SIGKILL: most likely the machine ran out of memory.*the last words"),
        ("compute without end", r"killed by SIGVTALRM: most likely the base's chat template computes without end"),
        ("exit", r"ended without a result \(exit status 0\)"),
    ],
)
def test_a_process_that_dies_is_an_error_that_names_its_log(tmp_path: Path, act: str, message: str) -> None:
    with pytest.raises(StageProcessError, match=message) as caught:
        run_play(act, tmp_path)
    assert str(tmp_path / "stage.log") in str(caught.value)


def test_a_forked_process_that_holds_the_pipe_keeps_nobody_waiting(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(StageProcessError, match="killed by SIGKILL"):
        run_play("die and leave a fork", tmp_path)
    assert time.monotonic() - started < 20


def _is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def _wait_until(holds: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return False


def _read_pids(folder: Path) -> list[int]:
    path = folder / "pids"
    assert _wait_until(lambda: path.exists() and path.read_text() != "")
    return [int(pid) for pid in path.read_text().split()]


def test_an_interrupt_reaches_the_whole_group_which_can_put_down_what_it_holds(tmp_path: Path) -> None:
    def interrupt() -> None:
        _read_pids(tmp_path)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_play("wait", tmp_path)
    assert time.monotonic() - started < 10
    assert (tmp_path / "pids.checkpoint").exists()
    assert all(_wait_until(lambda pid=pid: _is_gone(pid)) for pid in _read_pids(tmp_path))  # type: ignore[misc]


def test_a_stage_whose_parent_was_killed_ends(tmp_path: Path) -> None:
    stage = _kill_parent("wait", tmp_path)
    assert _wait_until(lambda: _is_gone(stage))
    assert (tmp_path / "pids.checkpoint").exists()


def _kill_parent(act: str, folder: Path) -> int:
    """Kill the parent of a stage that plays; the stage."""
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, act, str(folder)])
    stage, *_ = _read_pids(folder)
    parent.kill()
    parent.wait()
    return stage


def test_what_a_killed_parent_had_locked_stays_so_until_its_stage_has_ended(tmp_path: Path) -> None:
    stage = _kill_parent("put down slowly", tmp_path)
    waited_for: list[bool] = []
    with lock_file(tmp_path / "lock", lambda _: waited_for.append(_is_gone(stage))):
        assert (tmp_path / "pids.checkpoint").exists(), "whoever comes next finds what the stage has put down"
    assert waited_for
    assert _wait_until(lambda: _is_gone(stage))


def test_a_stage_in_the_middle_of_a_library_does_not_outlive_its_parent_for_long(tmp_path: Path) -> None:
    stage = _kill_parent("be deaf", tmp_path)
    assert _wait_until(lambda: _is_gone(stage), GRACE_SECONDS / 2)


@pytest.mark.parametrize("act", ["crash with a secret", "die with a secret"])
def test_what_a_library_said_last_is_told_without_keys(tmp_path: Path, act: str) -> None:
    with pytest.raises(StageProcessError, match=r"mlflow\.corp/api") as caught:
        run_play(act, tmp_path)
    assert not [word for word in ("hunter2secret", "=abc", "abcdefghij") if word in str(caught.value)]
