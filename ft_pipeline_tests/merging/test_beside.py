"""Work in a process beside the merge."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from ft_pipeline.errors import ConversionError, StageProcessError
from ft_pipeline.merging.beside import Arrivals, Work, running_beside


def fail_to_prepare() -> None:
    raise ImportError("no such library")


def prepare() -> None:
    """Nothing."""


def add_up(numbers: Iterator[int]) -> int:
    return sum(numbers)


def refuse(numbers: Iterator[int]) -> int:
    raise ConversionError(f"must be even, got {next(numbers)}")


def stumble(numbers: Iterator[int]) -> int:
    return next(numbers) // 0


def die(numbers: Iterator[int]) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return next(numbers)


def sleep(_numbers: Iterator[int]) -> None:
    time.sleep(60)


def wait_for_two(names: Iterator[str]) -> str:
    arrivals = Arrivals(names)
    arrivals.wait("b")
    arrivals.wait("a")
    return "both came"


def wait_for_what_never_comes(names: Iterator[str]) -> str:
    Arrivals(names).wait("c")
    return "it must be there, as nothing more will come"


def test_gives_back_what_the_work_makes_of_the_messages() -> None:
    with running_beside(prepare, add_up) as beside:
        beside.tell(20)
        beside.tell(22)
        assert beside.ask() == 42


def test_what_preparing_raises_does_not_count() -> None:
    with running_beside(fail_to_prepare, add_up) as beside:
        assert beside.ask() == 0


@pytest.mark.parametrize(
    ("work", "said"),
    [(wait_for_two, "both came"), (wait_for_what_never_comes, "it must be there, as nothing more will come")],
)
def test_waits_for_names(work: Work, said: str) -> None:
    with running_beside(prepare, work) as beside:
        beside.tell("a")
        beside.tell("b")
        assert beside.ask() == said


def test_an_error_for_people_gets_through() -> None:
    with running_beside(prepare, refuse) as beside:
        beside.tell(3)
        with pytest.raises(ConversionError, match="must be even, got 3"):
            beside.ask()


def test_an_error_gets_through_though_messages_went_on() -> None:
    with running_beside(prepare, refuse) as beside:
        beside.tell(3)
        beside._process.join(30)
        for _ in range(1000):
            beside.tell("more" * 100)
        with pytest.raises(ConversionError, match="must be even, got 3"):
            beside.ask()


def test_an_unforeseen_error_names_its_place() -> None:
    with running_beside(prepare, stumble) as beside:
        beside.tell(3)
        with pytest.raises(StageProcessError, match=r"(?s)ZeroDivisionError.*stumble"):
            beside.ask()


def test_a_process_that_is_killed_is_said_to_be() -> None:
    with running_beside(prepare, die) as beside:
        beside.tell(3)
        beside._process.join(30)
        with pytest.raises(StageProcessError, match=r"ended without a result .* -9"):
            beside.ask()


def test_ends_at_once_when_the_body_fails() -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), running_beside(prepare, sleep):
        raise KeyboardInterrupt
    assert time.monotonic() - started < 5
