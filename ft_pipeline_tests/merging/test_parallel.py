"""Threads that work on a merge end with it, however it ends."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from ft_pipeline.merging.parallel import Task, Workers


def test_tasks_that_others_bring_are_done_before_the_rest() -> None:
    done: list[str] = []

    def task(name: str, *more: Task) -> Task:
        def run() -> tuple[Task, ...]:
            done.append(name)
            return more

        return run

    workers = Workers([task("first", task("brought"), task("brought too")), task("last")], count=1)
    workers.run(lambda _done, _known: None)
    assert done == ["first", "brought", "brought too", "last"]
    assert (workers.done, workers.total) == (4, 4)


def test_an_error_ends_all_tasks_and_is_raised() -> None:
    def fail() -> None:
        raise ValueError("the third tensor")

    workers: Workers
    workers = Workers([lambda: _spin(workers), fail], count=2)
    with pytest.raises(ValueError, match="the third tensor"):
        workers.run(lambda _done, _known: None)
    assert not _list_alive()


def test_a_signal_ends_all_tasks_within_a_second(alarm: None) -> None:  # noqa: ARG001
    workers: Workers
    workers = Workers([lambda: _spin(workers)] * 3, count=2)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        workers.run(lambda _done, _known: None)
    assert time.monotonic() - started < 1.2
    assert not _list_alive()


def test_every_thread_computes_by_itself() -> None:
    import torch

    before, found = torch.get_num_threads(), []
    Workers([lambda: found.append(torch.get_num_threads())] * 2, count=2).run(lambda _done, _known: None)
    assert found == [1, 1]
    assert torch.get_num_threads() == before


@pytest.fixture
def alarm() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def _spin(workers: Workers) -> None:
    while True:
        workers.check()
        time.sleep(0.005)


def _list_alive() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("merge-")]
