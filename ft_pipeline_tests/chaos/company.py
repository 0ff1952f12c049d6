"""Two pipelines at once on one store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ft_pipeline_tests.chaos.invariants import find_differences
from ft_pipeline_tests.chaos.outcome import Outcome
from ft_pipeline_tests.chaos.undisturbed import Instance, Reference

_OTHER = {"resources": {"pipeline": {"config": {"overrides": {"training.seed": 7}}}}}
_ADAPTER = "trained_adapter"


class _Shared(Instance):
    """Another instance on the disk and the device of a first one."""

    @property
    def disk(self) -> Path:
        return self.folder.parent / "first/disk"

    @property
    def locks(self) -> Path:
        return self.folder.parent / "first/locks"


def _start_same(first: Instance) -> subprocess.Popen[bytes]:
    return first.start(name="other")


def _start_elsewhere(first: Instance) -> subprocess.Popen[bytes]:
    return _make_second(first).start(name="other")


def _start_other_training(first: Instance) -> subprocess.Popen[bytes]:
    second = _make_second(first)
    return second.start("--select", _ADAPTER, "--config-json", json.dumps(_OTHER), name="other")


def _make_second(first: Instance) -> Instance:
    second = _Shared(first.project, first.folder.parent / "second")
    second.prepare()
    return second


COMPANY: dict[str, Callable[[Instance], subprocess.Popen[bytes]]] = {
    "the same recipe in one Dagster instance": _start_same,
    "the same recipe in two Dagster instances": _start_elsewhere,
    "another training in another Dagster instance": _start_other_training,
}


def survive_company(reference: Reference, folder: Path, what: str) -> Outcome:
    """Let two runs that both want to train go at once.

    Args:
        reference: What undisturbed runs gave.
        folder: The event's.
        what: A key of COMPANY.
    """
    first = Instance(reference.project, folder / "first")
    first.prepare()
    reference.lay_disk(first.disk, _ADAPTER, has_later=True)
    # As `make` does: two first runs must not make the database at once.
    command = [sys.executable, "-m", "dagster", "instance", "concurrency", "set", "gpu", "1"]
    subprocess.run(command, env=os.environ | first.environment, cwd=first.folder, check=True, capture_output=True)
    both = first.start(), COMPANY[what](first)
    outcome = Outcome("two at once", what, _ADAPTER)
    for number, process in enumerate(both, start=1):
        if process.wait(timeout=1200):
            log = first.folder / "run.log" if number == 1 else next(folder.glob("*/other.log"))
            outcome.faults.append(f"run {number} failed: {log.read_text()[-1500:]}")
    said = "".join(path.read_text() for path in folder.glob("*/*.log"))
    outcome.facts["waited"] = "waits for another process" in said or "waiting for cpu" in said
    if not outcome.facts["waited"]:
        outcome.faults.append("neither run has waited for the other")
    if COMPANY[what] is _start_other_training:
        _remove_other(first, reference, outcome)
    outcome.faults += find_differences(first, reference)
    return outcome


def _remove_other(first: Instance, reference: Reference, outcome: Outcome) -> None:
    """The other training's adapter is no part of an undisturbed run."""
    known = {
        artifact.manifest.fingerprint
        for artifact in replace(first, folder=reference.after.parent).store.list_artifacts()
    }
    made = [found for found in first.store.list_artifacts() if found.manifest.asset == _ADAPTER]
    other = [found for found in made if found.manifest.fingerprint not in known]
    if len(other) != 1:
        outcome.faults.append(f"missing: the other training's adapter, found {len(other)}")
    for found in other:
        first.store.verify(found)
        first.store.remove(found)
