"""Publishers that are killed between two steps, and two at once: in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import PublicationError
from ft_pipeline.evaluation.request import Opponents
from ft_pipeline.publishing import folder, publisher
from ft_pipeline.publishing.folder import PublishedFolder, find_faults
from ft_pipeline_tests.publishing.small_models import Publishing, judge, make_model

_FORK = multiprocessing.get_context("fork")
# Where a publication may be cut off, in its order: after the call of these.
STEPS: dict[str, tuple[Any, str]] = {
    "half a version": (folder, "hash_file"),
    "a version that is not flushed": (folder, "sync_tree"),
    "a version": (PublishedFolder, "lay"),
    "half a version that is mended": (Path, "replace"),
    "a link beside the link": (Path, "symlink_to"),
    "the alias": (publisher, "write_state"),
    "the link": (PublishedFolder, "point_to"),
    "old versions are gone": (PublishedFolder, "prune"),
}
# Of a version that is laid for the first time, nothing is mended.
NEW_STEPS = [step for step in STEPS if step != "half a version that is mended"]
IS_MOVED = ("the alias", "the link", "old versions are gone")


def _die_after(step: str, act: Callable[[], object]) -> None:
    """Do something in another process that is gone the moment this step is done."""

    def work() -> None:
        owner, name = STEPS[step]
        original = getattr(owner, name)

        def call_and_die(*args: Any, **options: Any) -> None:
            original(*args, **options)
            os._exit(9)

        setattr(owner, name, call_and_die)
        act()

    process = _FORK.Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 9, f"it was not cut off after {step}"


def _require_whole(publishing: Publishing, champion: int, *others: int) -> None:
    assert publishing.champion == publishing.fingerprint(champion)
    assert publishing.link.readlink().name == f"demo-{publishing.fingerprint(champion)}"
    assert find_faults(publishing.link) == []
    assert publishing.versions() == {f"demo-{publishing.fingerprint(number)}" for number in (champion, *others)}
    assert {path.name for path in publishing.published.iterdir()} == {"demo", ".versions"}


@pytest.mark.parametrize("step", NEW_STEPS)
def test_a_publisher_that_was_killed_leaves_a_whole_champion_and_is_done_by_the_next(
    publishing: Publishing, step: str
) -> None:
    publishing.publish(1)
    _die_after(step, lambda: publishing.publish(2))
    assert publishing.champion == publishing.fingerprint(2 if step in IS_MOVED else 1)
    assert find_faults(publishing.link) == []
    done = publishing.publish(2, against=publishing.fingerprint(1))
    assert done.published == (step not in IS_MOVED)
    _require_whole(publishing, 2, 1)


@pytest.mark.parametrize("step", [step for step in NEW_STEPS if step not in IS_MOVED])
def test_what_a_killed_publisher_has_laid_goes_with_the_next_model(publishing: Publishing, step: str) -> None:
    publishing.publish(1)
    _die_after(step, lambda: publishing.publish(2))
    publishing.publish(3)
    _require_whole(publishing, 3, 1)


@pytest.mark.parametrize("step", ["half a version", "half a version that is mended"])
def test_who_is_killed_while_the_champion_is_mended_leaves_it_where_it_is(publishing: Publishing, step: str) -> None:
    publishing.publish(1)
    damaged = publishing.link / "README.md"
    damaged.unlink()
    _die_after(step, lambda: publishing.publish(1))
    assert find_faults(publishing.link) in ([], ["README.md is missing"])
    publishing.publish(1)
    _require_whole(publishing, 1)


def test_a_rollback_that_was_killed_is_done_by_the_next_and_goes_no_further(publishing: Publishing) -> None:
    for number in (1, 2, 3):
        publishing.publish(number)
    _die_after("the alias", publishing.roll_back)
    done = publishing.roll_back()
    assert done.reason == "a rollback that was cut off is done now; the next one goes further back"
    _require_whole(publishing, 2, 3, 1)


@pytest.mark.parametrize("step", ["the alias", "the link"])
def test_a_rollback_that_was_killed_is_done_by_the_next_run(publishing: Publishing, step: str) -> None:
    publishing.publish(1)
    publishing.publish(2)
    _die_after(step, publishing.roll_back)
    publishing.reject(3)
    _require_whole(publishing, 1, 2)


def _compete(publishing: Publishing, numbers: tuple[int, ...]) -> list[str]:
    """Publish several models at once, each scored against the present champion.

    Returns:
        For each what its publisher says, sorted.
    """
    start, answers = _FORK.Barrier(len(numbers)), _FORK.SimpleQueue()
    opponents = Opponents(champion=publishing.champion)

    def work(number: int) -> None:
        model = make_model(publishing.store, number)
        one = publishing.publisher(f"run-{number}")
        start.wait()
        try:
            done = one.publish(model, judge(number, opponents))
            answers.put("published" if done.published else done.reason)
        except PublicationError as err:
            answers.put(str(err))

    processes = [_FORK.Process(target=work, args=(number,)) for number in numbers]
    for process in processes:
        process.start()
    said = sorted(answers.get() for _ in processes)
    for process in processes:
        process.join()
    return said


def test_of_two_publishers_at_once_one_wins_and_the_other_is_told(publishing: Publishing) -> None:
    publishing.publish(1)
    for attempt in range(3):
        numbers = (10 + attempt, 20 + attempt)
        said = _compete(publishing, numbers)
        assert said[0] == "published"
        assert "another run published meanwhile" in said[1]
        assert publishing.champion in {publishing.fingerprint(number) for number in numbers}
        assert publishing.link.readlink().name == f"demo-{publishing.champion}"
        assert find_faults(publishing.link) == []
    assert [event.kind for event in publishing.state.history] == ["promoted"] * 4


def test_two_publishers_of_the_same_model_publish_it_once(publishing: Publishing) -> None:
    assert _compete(publishing, (5, 5, 5)) == ["it is the champion already"] * 2 + ["published"]
    assert len(publishing.state.history) == 1
