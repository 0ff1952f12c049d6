from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ft_pipeline.finetuning.lease import hold_device
from ft_pipeline.processes.launcher import run_stage
from ft_pipeline_tests.finetuning.lease_players import LOG, HoldRequest
from ft_pipeline_tests.processes.test_launcher import Ear

_PLAYERS = "ft_pipeline_tests.finetuning.lease_players"
_PARENT = """
import sys
from pathlib import Path
from ft_pipeline_tests.finetuning.test_lease_processes import hold_in_stage
hold_in_stage(Path(sys.argv[1]))
"""
_WAITER = """
import signal, sys
from pathlib import Path
from ft_pipeline.finetuning.lease import hold_device
if sys.argv[2] == "SIGTERM":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
told = Path(sys.argv[3])
try:
    with hold_device("cpu", lock_dir=Path(sys.argv[1]), timeout_seconds=60, holder="me", tell=lambda _: told.touch()):
        pass
except KeyboardInterrupt:
    sys.exit(7)
"""
_DEFINITIONS = """
from pathlib import Path
import dagster as dg
from ft_pipeline_tests.finetuning.lease_players import play

@dg.asset
def adapter(context: dg.AssetExecutionContext) -> None:
    play(Path({lock_dir!r}), context.run.run_id, "pass")

defs = dg.Definitions(assets=[adapter], executor=dg.in_process_executor)
"""


class Players:
    """Processes of one test, each the leader of its own group."""

    def __init__(self, lock_dir: Path, project: Path) -> None:
        self.lock_dir = lock_dir
        self.environment = {**os.environ, "PYTHONPATH": str(project)}
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, *command], start_new_session=True, env={**self.environment, **environment}
        )
        self.started.append(process)
        return process

    def queue_up(self, name: str, act: str) -> subprocess.Popen[bytes]:
        """Start a player and see it take its place."""
        before = self.tickets()
        process = self.start("-m", _PLAYERS, str(self.lock_dir), name, act)
        wait_until(lambda: self.tickets() - before or f"in {name}" in self.log())
        return process

    def tickets(self) -> set[str]:
        folder = self.lock_dir / "cpu.queue"
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    def log(self) -> list[str]:
        path = self.lock_dir / LOG
        return path.read_text().splitlines() if path.exists() else []

    def end(self) -> None:
        for process in self.started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until(holds: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)


@pytest.fixture
def players(tmp_path: Path, project: Path) -> Iterator[Players]:
    group = Players(tmp_path, project)
    yield group
    group.end()


def hold_in_stage(lock_dir: Path) -> None:
    """Hold the device in a stage's process, as training does."""
    run_stage(
        f"{_PLAYERS}:hold_in_stage",
        HoldRequest(lock_dir=lock_dir, name="the stage"),
        reporter=Ear(),
        log_path=lock_dir / "stage.log",
    )


def _is_free(lock_dir: Path, seconds: float = 5) -> bool:
    with hold_device("cpu", lock_dir=lock_dir, timeout_seconds=seconds, holder="me", tell=lambda _: None):
        return True


@pytest.mark.parametrize("act", ["stay", "fork"])
def test_the_lease_dies_with_its_holder_even_if_a_forked_worker_lives_on(players: Players, act: str) -> None:
    holder = players.queue_up("holder", act)
    wait_until(lambda: "in holder" in players.log())
    holder.kill()
    holder.wait()
    assert _is_free(players.lock_dir, 2)


def test_of_sixteen_processes_one_holds_at_a_time_in_order_though_some_are_killed(players: Players) -> None:
    acts = {0: "stay", 2: "fork", 5: "stay"}
    processes = [players.queue_up(str(i), acts.get(i, "pass")) for i in range(16)]
    for waiter in (3, 7, 15):
        processes[waiter].kill()
    for holder in acts:
        wait_until(lambda name=f"in {holder}": name in players.log())  # type: ignore[misc]
        processes[holder].kill()
    killed = {3, 7, 15, *acts}
    for i, process in enumerate(processes):
        assert process.wait(30) == (-signal.SIGKILL if i in killed else 0)
    assert [line for line in players.log() if "OVERLAP" in line] == []
    served = [int(line.split()[1]) for line in players.log() if line.startswith("in ")]
    assert served == [i for i in range(16) if i not in (3, 7, 15)]
    assert _is_free(players.lock_dir)
    assert players.tickets() == set()


def test_a_crowd_that_comes_at_once_is_served_one_by_one(players: Players) -> None:
    processes = [players.start("-m", _PLAYERS, str(players.lock_dir), str(i), "pass") for i in range(8)]
    assert [process.wait(60) for process in processes] == [0] * 8
    said = players.log()
    assert len(said) == 16
    assert all(came.split() == ["in", gone.split()[1]] for came, gone in zip(said[::2], said[1::2], strict=True))


def test_waiting_costs_under_two_hundredths_of_a_core(players: Players) -> None:
    players.queue_up("holder", "stay")
    wait_until(lambda: "in holder" in players.log())
    for i in range(3):
        players.queue_up(str(i), "pass")
    players.start("-m", _PLAYERS, str(players.lock_dir), "me", "measure").wait(30)
    (said,) = (line for line in players.log() if line.startswith("share"))
    assert 0 < float(said.split()[1]) < 0.02


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_who_waits_is_stopped_within_two_seconds_and_leaves_the_line(
    players: Players, name: str, tmp_path: Path
) -> None:
    players.queue_up("holder", "stay")
    wait_until(lambda: "in holder" in players.log() and not players.tickets())
    waiter = players.start("-c", _WAITER, str(players.lock_dir), name, str(tmp_path / "waits"))
    wait_until((tmp_path / "waits").exists)
    waiter.send_signal(signal.Signals[name])
    assert waiter.wait(2) == 7
    assert players.tickets() == set()


def test_an_interrupted_run_stops_its_waiting_stage_within_two_seconds(
    players: Players, monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(project))
    players.queue_up("holder", "stay")
    wait_until(lambda: "in holder" in players.log() and not players.tickets())
    interrupted_at = 0.0

    def interrupt() -> None:
        nonlocal interrupted_at
        wait_until(players.tickets)
        interrupted_at = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        hold_in_stage(players.lock_dir)
    assert time.monotonic() - interrupted_at < 2
    assert players.tickets() == set()


def test_a_stage_whose_orchestrator_is_killed_gives_the_device_back(players: Players) -> None:
    parent = players.start("-c", _PARENT, str(players.lock_dir))
    wait_until(lambda: "in the stage" in players.log())
    parent.kill()
    parent.wait()
    assert _is_free(players.lock_dir)


def _materialize(players: Players, home: str) -> subprocess.Popen[bytes]:
    """Start a run in a Dagster instance of its own."""
    (players.lock_dir / home).mkdir()
    module = players.lock_dir / "definitions.py"
    module.write_text(_DEFINITIONS.format(lock_dir=str(players.lock_dir)))
    command = ("-m", "dagster", "asset", "materialize", "--select", "*", "-f", str(module))
    return players.start(*command, DAGSTER_HOME=str(players.lock_dir / home))


@pytest.mark.slow
def test_two_dagster_instances_never_hold_the_device_together(players: Players) -> None:
    holder = players.queue_up("holder", "stay")
    runs = [_materialize(players, home) for home in ("one", "two")]
    wait_until(lambda: len(players.tickets()) == 2)
    holder.kill()
    assert [run.wait(60) for run in runs] == [0, 0]
    said = players.log()[1:]
    assert len(said) == 4
    assert all(came.split() == ["in", gone.split()[1]] for came, gone in zip(said[::2], said[1::2], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_waiting_dagster_run_is_cancelled_within_two_seconds(players: Players, name: str) -> None:
    players.queue_up("holder", "stay")
    wait_until(lambda: "in holder" in players.log() and not players.tickets())
    run = _materialize(players, "home")
    wait_until(players.tickets)
    run.send_signal(signal.Signals[name])
    wait_until(lambda: not players.tickets(), 2)
    assert run.wait(30) != 0
