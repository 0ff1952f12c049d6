"""SIGKILL of any process of a pipeline at any moment, and what is left of it."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.processes.child import GRACE_SECONDS
from ft_pipeline_tests.chaos.invariants import find_damage, find_differences, wait_for_silence
from ft_pipeline_tests.chaos.outcome import Outcome
from ft_pipeline_tests.chaos.undisturbed import END, STAGES, START, Instance, Reference
from ft_pipeline_tests.dagster_server import list_processes

_CHILD = re.compile(r"-m ft_pipeline\.processes\.child \S+:(\w+)")
_POLL_SECONDS = 0.02
_TRIES = 4
# A stage that has something to put down has GRACE_SECONDS; the rest is for a busy machine.
_SILENT_AFTER_SECONDS = GRACE_SECONDS + 15
ORCHESTRATOR, STAGE, HELPER, LOGGER = "orchestrator", "stage", "helper of a stage", "Dagster's log keeper"
# Dagster starts four small processes for each asset, which only copy what is printed.
_WEIGHTS = {ORCHESTRATOR: 4, STAGE: 4, HELPER: 4, LOGGER: 1}


@dataclass(frozen=True)
class Moment:
    """When to kill.

    Attributes:
        stage: An asset, or START or END.
        fraction: Of the time that it takes undisturbed.
        at_once: The next run is started before the rest of the killed one has ended.
        is_whole: All that comes after the stage is built too; else it is there already, as if the stage alone was lost.
        seed: Of the choice among the processes that live then.
    """

    stage: str
    fraction: float
    at_once: bool
    is_whole: bool
    seed: str


@dataclass(frozen=True)
class Hit:
    """Whom a kill has met."""

    process: str
    words: str
    stage: str
    seconds: float


def draw(seed: int, number: int, seconds: Mapping[str, float], whole_every: int = 10) -> Moment:
    """The n-th moment: any second of an undisturbed run is as likely as any other."""
    dice = random.Random(f"{seed} {number}")
    stage = dice.choices(list(seconds), list(seconds.values()))[0]
    return Moment(
        stage, dice.random(), dice.random() < 0.5, number % whole_every == whole_every - 1, f"{seed} {number}"
    )


def survive_kill(reference: Reference, folder: Path, moment: Moment) -> Outcome:
    """Kill a process of a run at a moment, look what is left, run again, and compare with undisturbed runs."""
    for attempt in range(_TRIES):
        instance = Instance(reference.project, folder / f"try-{attempt}")
        instance.prepare()
        reference.lay_disk(instance.disk, moment.stage, has_later=not moment.is_whole)
        process = instance.start()
        # One that was over before its moment is tried again, sooner.
        hit = _strike(process, instance, moment, reference.seconds[moment.stage] * moment.fraction / 2**attempt)
        if hit:
            break
    outcome = Outcome("kill", f"SIGKILL at {moment.fraction:.0%} of {moment.stage}", moment.stage)
    if not hit:
        outcome.faults.append("the run was over before any kill")
        return outcome
    outcome.stage, outcome.process = hit.stage, hit.process
    command = re.sub(r"\S*/", "", hit.words)[-120:]
    outcome.facts = {"after_seconds": round(hit.seconds, 2), "command": command, "at_once": moment.at_once}
    if not (moment.at_once and hit.process == ORCHESTRATOR):
        process.wait(timeout=1200)
        silent_after, stuck = wait_for_silence(instance, _SILENT_AFTER_SECONDS)
        outcome.facts["silent_after_seconds"] = round(silent_after, 2)
        outcome.faults += [stuck] if stuck else []
    damage = list(find_damage(instance, reference.champions))
    outcome.faults += damage
    if not damage and (champion := instance.state.champion):
        outcome.facts["is_published"] = champion.gguf_model == reference.champions[1]
    started = time.monotonic()
    status = instance.run(name="rerun")
    outcome.facts["rerun_seconds"] = round(time.monotonic() - started, 1)
    process.wait()
    if status:
        outcome.faults.append(f"the rerun failed: {instance.read_log('rerun')[-1500:]}")
    outcome.faults += find_differences(instance, reference)
    return outcome


def _strike(process: subprocess.Popen[bytes], instance: Instance, moment: Moment, seconds: float) -> Hit | None:
    """Wait for the moment and kill; None if the run was over before."""
    while not has_come(instance, moment.stage):
        if process.poll() is not None:
            return None
        time.sleep(_POLL_SECONDS)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    living = list_processes(instance.home)
    if process.poll() is not None or process.pid not in living:
        return None
    kinds: dict[str, list[int]] = {}
    for number, words in living.items():
        kinds.setdefault(_name_kind(words, is_first=number == process.pid), []).append(number)
    dice = random.Random(f"{moment.seed} victim")  # the moment's own dice would show the same number again
    kind = dice.choices(sorted(kinds), [_WEIGHTS[kind] for kind in sorted(kinds)])[0]
    victim = dice.choice(sorted(kinds[kind]))
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    stage = next(iter(_list_running(living)), moment.stage)
    return Hit(kind, living[victim].strip(), stage, seconds)


def _name_kind(words: str, *, is_first: bool) -> str:
    if is_first:
        return ORCHESTRATOR
    if _CHILD.search(words):
        return STAGE
    return LOGGER if "watch_orphans" in words or words.startswith("tail ") else HELPER


def has_come(instance: Instance, stage: str) -> bool:
    """Whether a run has come to a stage."""
    if stage == START:
        return True
    if stage == END:
        return bool(re.search(r"evaluation_report \w+: (reused|built)", instance.read_log()))
    return stage in _list_running(list_processes(instance.home))


def _list_running(living: Mapping[int, str]) -> list[str]:
    """The assets that processes of stages work on; what is none of the graph's goes by its function."""
    return [STAGES.get(match[1], match[1]) for words in living.values() if (match := _CHILD.search(words))]
