"""Processes that wait for a device and hold it, for the tests: `python -m ... LOCK_DIR NAME ACT`, and a stage."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from ft_pipeline.errors import LeaseTimeout
from ft_pipeline.finetuning.lease import hold_device
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.summary import Summary

LOG = "players.log"


class HoldRequest(BaseModel):
    """Where the locks are, and who holds one."""

    lock_dir: Path
    name: str


def hold_in_stage(request: HoldRequest, reporter: Reporter) -> Summary:
    """Hold the device until asked to stop."""
    with hold_device("cpu", lock_dir=request.lock_dir, timeout_seconds=60, holder=request.name, tell=reporter.info):
        say(request.lock_dir, f"in {request.name}")
        time.sleep(60)
    return Summary()


def say(lock_dir: Path, line: str) -> None:
    """Append a line to the players' log at once."""
    descriptor = os.open(lock_dir / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def play(lock_dir: Path, name: str, act: str) -> None:
    """Hold the device for a moment (`pass`), until killed (`stay`), or with a forked worker (`fork`)."""
    with (
        hold_device("cpu", lock_dir=lock_dir, timeout_seconds=60, holder=name, tell=lambda _: None),
        (lock_dir / "witness").open("a") as witness,
    ):
        try:
            fcntl.lockf(witness, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no flock: independent of what is tested
        except BlockingIOError:
            say(lock_dir, f"OVERLAP {name}")
        if act == "fork" and os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        say(lock_dir, f"in {name}")
        time.sleep(0.05 if act == "pass" else 60)
        say(lock_dir, f"out {name}")


def measure_waiting(lock_dir: Path, seconds: float) -> float:
    """Share of a core that waiting costs."""
    before = time.process_time()
    with (
        suppress(LeaseTimeout),
        hold_device("cpu", lock_dir=lock_dir, timeout_seconds=seconds, holder="me", tell=lambda _: None),
    ):
        raise AssertionError("the device must be held by somebody else")
    return (time.process_time() - before) / seconds


if __name__ == "__main__":
    if sys.argv[3] == "measure":
        say(Path(sys.argv[1]), f"share {measure_waiting(Path(sys.argv[1]), 3.0)}")
    else:
        play(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
