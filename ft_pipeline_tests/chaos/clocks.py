"""A clock that jumps: libfaketime shows all processes of a run another time, which may change while they run."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline_tests.chaos.invariants import find_damage, find_differences
from ft_pipeline_tests.chaos.kills import has_come
from ft_pipeline_tests.chaos.outcome import Outcome
from ft_pipeline_tests.chaos.undisturbed import Instance, Reference
from ft_pipeline_tests.dagster_server import list_processes

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Jump:
    """How a clock goes.

    Attributes:
        before: What it shows at the start of a run, as libfaketime writes it.
        after: From when on the run has come to `stage`.
    """

    before: str
    after: str
    stage: str


JUMPS = {
    "three days back, before a run": Jump("-3d", "-3d", "trained_adapter"),
    "forty days on, before a run": Jump("+40d", "+40d", "merged_model"),
    "five hours back, while it trains": Jump("+0", "-5h", "trained_adapter"),
    "forty days on, while it quantizes": Jump("+0", "+40d", "gguf_model"),
}


def find_library() -> Path | None:
    """Where Debian's package `faketime` has put it."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


def survive_jump(reference: Reference, folder: Path, what: str) -> Outcome:
    """Run under such a clock, and again under the right one.

    Args:
        reference: What undisturbed runs gave.
        folder: The event's.
        what: A key of JUMPS.
    """
    jump, clock, library = JUMPS[what], folder / "clock", find_library()
    if library is None:  # or no clock would jump, and all would be well
        return Outcome("clock", what, jump.stage, faults=["libfaketime is not installed: apt-get install faketime"])
    folder.mkdir(parents=True)
    clock.write_text(jump.before)
    shown = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    # A clock that is set moves what stands in files and records, not how long a process waits.
    shown |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    # The times of files are shown otherwise too, so the bytecode that is there counts as old.
    shown |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    instance = Instance(reference.project, folder / "instance", shown)
    instance.prepare()
    reference.lay_disk(instance.disk, jump.stage, has_later=True)
    outcome = Outcome("clock", what, jump.stage)
    process = instance.start()
    while not has_come(instance, jump.stage) and process.poll() is None:
        time.sleep(_POLL_SECONDS)
    clock.write_text(jump.after)
    if process.wait(timeout=1200):
        outcome.faults.append(f"the run failed: {instance.read_log()[-1500:]}")
    newest = max(instance.store.list_artifacts(), key=lambda artifact: artifact.manifest.created_at)
    outcome.facts["newest_artifact"] = f"{newest.manifest.created_at:%F %H:%M}"
    outcome.faults += find_damage(instance, reference.champions)
    outcome.faults += find_differences(instance, reference)
    after = Instance(reference.project, folder / "instance")
    if after.run(name="rerun"):
        outcome.faults.append(f"the rerun failed: {after.read_log('rerun')[-1500:]}")
    outcome.faults += find_differences(after, reference)
    # Dagster's keepers of logs do not hear the end of a run below libfaketime; the rerun leaves none.
    for left in list_processes(instance.home):
        with suppress(ProcessLookupError):
            os.kill(left, signal.SIGKILL)
    return outcome
