"""A disk that becomes full in a stage, and one that becomes read-only: a tmpfs in a mount namespace of its own.

python -m ft_pipeline_tests.chaos.disks REFERENCE FOLDER EVENT STAGE    # in the namespace, by itself

Prints the outcome as JSON.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from ft_pipeline_tests.chaos.invariants import find_damage, find_differences
from ft_pipeline_tests.chaos.kills import has_come
from ft_pipeline_tests.chaos.outcome import Outcome
from ft_pipeline_tests.chaos.undisturbed import Instance, Reference, make_reference
from ft_pipeline_tests.small_disk import NAMESPACE

FULL, READ_ONLY = "full disk", "read-only disk"
_SIZE = "48m"
_BLOCK = bytes(64 << 10)
_POLL_SECONDS = 0.02
# What a person is told: which disk, and what to do.
_WORDS = {
    FULL: r"Free some.*FT_PIPELINE_ARTIFACTS to another disk|cannot be written: .*No space left.*(Make room|Mend that)",
    READ_ONLY: r"cannot be written.*Read-only.*(FT_PIPELINE_(ARTIFACTS|PUBLISHED)|mend the rights)",
}


def survive_disk(event: str, reference: Path, folder: Path, stage: str) -> Outcome:
    """Let the disk of a store become full, or read-only, when a run comes to a stage; mend it, and run again.

    Args:
        event: FULL or READ_ONLY.
        reference: The folder of the reference.
        folder: The event's.
        stage: An asset, or START or END.
    """
    folder.mkdir(parents=True)
    arguments = [str(reference), str(folder), event, stage]
    done = subprocess.run(
        [*NAMESPACE, sys.executable, "-m", __name__, *arguments], capture_output=True, text=True, check=False
    )
    try:
        return Outcome(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError):
        return Outcome(event, f"{event} at {stage}", stage, faults=[f"the event broke off: {done.stderr[-1500:]}"])


def _main(event: str, reference: Reference, instance: Instance, stage: str) -> Outcome:
    instance.prepare()
    instance.disk.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={_SIZE}", "none", str(instance.disk))
    reference.lay_disk(instance.disk, stage, has_later=True)
    outcome = Outcome(event, f"{event} at {stage}", stage)
    process = instance.start()
    while not has_come(instance, stage) and process.poll() is None:
        time.sleep(_POLL_SECONDS)
    ballast = instance.disk / "ballast"
    if event == FULL:
        _fill(ballast)
    else:
        # Over itself: a disk with files that are open for writing cannot be remounted.
        _mount("--bind", str(instance.disk), str(instance.disk))
        _mount("-o", "remount,bind,ro", str(instance.disk))
    status = process.wait(timeout=1200)
    outcome.facts["failed"] = bool(status)
    if not status:
        outcome.faults.append("the disk was in nobody's way: the run ended well")
    said = _find_error(instance.read_log())
    if status and not re.search(_WORDS[event], said, re.DOTALL):
        outcome.faults.append(f"unclear error: {said[-1500:]}")
    outcome.facts["said"] = said.replace(str(instance.folder), "")[:400]
    if event == READ_ONLY:
        subprocess.run(["umount", "--lazy", str(instance.disk)], check=True)  # noqa: S607
    outcome.faults += find_damage(instance, reference.champions)
    ballast.unlink(missing_ok=True)
    if status := instance.run(name="rerun"):
        outcome.faults.append(f"the rerun failed: {instance.read_log('rerun')[-1500:]}")
    outcome.faults += find_differences(instance, reference)
    return outcome


def _mount(*options: str) -> None:
    subprocess.run(["mount", *options], check=True)  # noqa: S607 - in a namespace of its own


def _fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(_BLOCK)
    with suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(_BLOCK[:1])


def _find_error(log: str) -> str:
    """What the run says of its failure, Dagster's own frames left aside."""
    found = re.findall(
        r"^(?:\w+\.)*\w*(?:Error|Failure|Cancelled): .*(?:\n(?!  |\d{4}-|Stack|\n).*)*", log, re.MULTILINE
    )
    return "\n".join(dict.fromkeys(found))


if __name__ == "__main__":
    _reference, _folder, _event, _stage = sys.argv[1:]
    _found = make_reference(Path(_reference))
    _outcome = _main(_event, _found, Instance(_found.project, Path(_folder)), _stage)
    sys.stdout.write("\n" + json.dumps(_outcome.__dict__) + "\n")
