"""What a pipeline survives, in short; `python -m benchmarks.chaos` is the long form (docs/chaos.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_pipeline_tests.chaos.clocks import JUMPS, find_library, survive_jump
from ft_pipeline_tests.chaos.company import survive_company
from ft_pipeline_tests.chaos.damage import survive_damage
from ft_pipeline_tests.chaos.disks import FULL, READ_ONLY, survive_disk
from ft_pipeline_tests.chaos.invariants import find_differences
from ft_pipeline_tests.chaos.kills import Moment, survive_kill
from ft_pipeline_tests.chaos.undisturbed import START, Instance, Reference
from ft_pipeline_tests.needs import do_without
from ft_pipeline_tests.small_disk import can_mount

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("stage", "fraction"), [("raw_dataset", 0.5), ("trained_adapter", 0.7), ("evaluation_report", 0.3)]
)
def test_a_kill_of_any_process_loses_nothing(stage: str, fraction: float, reference: Reference, tmp_path: Path) -> None:
    moment = Moment(stage, fraction, at_once=True, is_whole=False, seed=stage)
    outcome = survive_kill(reference, tmp_path, moment)
    assert outcome.is_survived, outcome.faults


@pytest.mark.skipif(not can_mount(), reason="this machine lets nobody mount a small disk")
@pytest.mark.parametrize(("event", "stage"), [(FULL, "data_report"), (READ_ONLY, START)])
def test_a_disk_that_takes_nothing_is_told_and_loses_nothing(
    event: str, stage: str, reference: Reference, tmp_path: Path
) -> None:
    outcome = survive_disk(event, reference.project.parent, tmp_path / "event", stage)
    assert outcome.is_survived, outcome.faults
    assert outcome.facts["failed"]


@pytest.mark.parametrize("what", ["a byte flipped in the published model", "the aliases spoilt"])
def test_damage_is_healed_or_told(what: str, reference: Reference, tmp_path: Path) -> None:
    outcome = survive_damage(reference, tmp_path / "event", what)
    assert outcome.is_survived, outcome.faults


def test_two_runs_at_once_end_as_one_does(reference: Reference, tmp_path: Path) -> None:
    outcome = survive_company(reference, tmp_path, "the same recipe in two Dagster instances")
    assert outcome.is_survived, outcome.faults


@pytest.mark.long
@pytest.mark.parametrize("what", JUMPS)
def test_a_clock_that_jumps_changes_nothing(what: str, reference: Reference, tmp_path: Path) -> None:
    if not find_library():
        do_without("libfaketime is not installed: apt-get install faketime")
    outcome = survive_jump(reference, tmp_path / "event", what)
    assert outcome.is_survived, outcome.faults


def test_what_is_not_as_it_was_is_seen(reference: Reference, tmp_path: Path) -> None:
    """The judge itself: a draft, a changed byte and a lost champion do not pass."""
    instance = Instance(reference.project, tmp_path)
    instance.prepare(reference.after)
    assert list(find_differences(instance, reference)) == []
    (instance.store.root / "gguf_model/.abc.draft-1").mkdir()
    for path in instance.store.root.glob("trained_adapter/*/adapter_config.json"):
        path.write_text(path.read_text() + " ")
    instance.published.unlink()
    found = " ".join(find_differences(instance, reference))
    assert all(words in found for words in ("left behind", "partial artifact", "adapter_config.json", "lost champion"))
