"""Runs whose process is gone, as looked for in a store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ft_pipeline.lost_runs import LOOKS, RunningRun, look_for_lost
from ft_pipeline.run_record import RunFolder


class Watch:
    """Looks at one store again and again."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.memory: str | None = None

    def look(self, **log_lengths: int) -> tuple[str, ...]:
        """Look at runs by their ids; those that are lost."""
        found = look_for_lost(
            [RunningRun(name, self.store, length) for name, length in log_lengths.items()], self.memory
        )
        self.memory = found.memory
        return found.lost


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path)


def test_a_run_whose_process_is_gone_is_lost_after_some_looks(watch: Watch) -> None:
    descriptor = RunFolder(watch.store).hold("one")
    assert [watch.look(one=5) for _ in range(LOOKS + 2)] == [()] * (LOOKS + 2), "it lives"
    os.close(descriptor)
    assert [watch.look(one=5) for _ in range(LOOKS)] == [()] * (LOOKS - 1) + [("one",)]


def test_a_run_whose_log_grows_or_that_takes_its_lock_again_is_not_lost(watch: Watch) -> None:
    folder = RunFolder(watch.store)
    os.close(folder.hold("one"))
    assert [watch.look(one=length) for length in range(2 * LOOKS)] == [()] * 2 * LOOKS
    for _ in range(LOOKS):
        assert watch.look(one=100) == ()
        next_step = folder.hold("one")
        assert watch.look(one=100) == ()
        os.close(next_step)


def test_a_run_that_has_no_lock_here_may_be_another_machines(watch: Watch) -> None:
    RunFolder(watch.store).hold("mine")
    assert [watch.look(theirs=1) for _ in range(2 * LOOKS)] == [()] * 2 * LOOKS
    assert not (watch.store / "_runs/theirs.lock").exists(), "looking must not make it one of ours"


def test_a_store_that_cannot_be_looked_into_keeps_no_other_run_from_being_judged(watch: Watch) -> None:
    folder = RunFolder(watch.store)
    os.close(folder.hold("one"))
    (watch.store / "_runs/two.lock").symlink_to(watch.store)  # is not opened
    assert [watch.look(one=1, two=1) for _ in range(LOOKS)] == [(), (), ("one",)]


def test_each_run_is_looked_at_by_itself_and_one_that_has_ended_is_forgotten(watch: Watch) -> None:
    folder = RunFolder(watch.store)
    os.close(folder.hold("one"))
    watch.look(one=1)
    os.close(folder.hold("two"))
    assert [watch.look(one=1, two=1) for _ in range(LOOKS)] == [(), ("one",), ("one", "two")]
    watch.look()
    assert watch.look(one=1) == ()


@pytest.mark.parametrize("memory", ["", "no json", "[]", '{"one": 3}', '{"one": ["many", 1]}'])
def test_a_memory_that_does_not_read_is_begun_anew(watch: Watch, memory: str) -> None:
    os.close(RunFolder(watch.store).hold("one"))
    watch.memory = memory
    assert [watch.look(one=5) for _ in range(LOOKS)] == [()] * (LOOKS - 1) + [("one",)]
