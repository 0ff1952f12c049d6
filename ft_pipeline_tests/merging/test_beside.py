"""Work in a process beside the merge."""

from __future__ import annotations

import os
import signal
import time

import pytest

from ft_pipeline.errors import ConversionError, StageProcessError
from ft_pipeline.merging.beside import running_beside


def fail_to_prepare() -> None:
    raise ImportError("no such library")


def prepare() -> None:
    """Nothing."""


def double(number: int) -> int:
    return 2 * number


def refuse(number: int) -> int:
    raise ConversionError(f"must be even, got {number}")


def stumble(number: int) -> int:
    return number // 0


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_gives_back_what_the_work_gives() -> None:
    with running_beside(prepare, double) as ask:
        assert ask(21) == 42


def test_what_preparing_raises_does_not_count() -> None:
    with running_beside(fail_to_prepare, double) as ask:
        assert ask(1) == 2


def test_an_error_for_people_gets_through() -> None:
    with running_beside(prepare, refuse) as ask, pytest.raises(ConversionError, match="must be even, got 3"):
        ask(3)


def test_an_unforeseen_error_names_its_place() -> None:
    with (
        running_beside(prepare, stumble) as ask,
        pytest.raises(StageProcessError, match=r"(?s)ZeroDivisionError.*stumble"),
    ):
        ask(3)


def test_a_process_that_is_killed_is_said_to_be() -> None:
    with running_beside(prepare, die) as ask, pytest.raises(StageProcessError, match=r"ended without a result .* -9"):
        ask(3)


def test_ends_at_once_when_the_body_fails() -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), running_beside(prepare, time.sleep):
        raise KeyboardInterrupt
    assert time.monotonic() - started < 5
