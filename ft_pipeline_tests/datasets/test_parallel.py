from __future__ import annotations

import os
import time

import pytest

from ft_pipeline.datasets.parallel import call_apart, map_ahead, map_in_order
from ft_pipeline.datasets.template_limits import OVER_TIME
from ft_pipeline.errors import StageProcessError


def _see(number: int) -> tuple[int, str | None, int]:
    time.sleep(0.05)
    return number, os.environ.get("POLARS_MAX_THREADS"), os.getpid()


def _fail(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number


def test_every_process_has_one_thread_and_results_keep_their_order() -> None:
    seen = list(map_in_order(_see, range(12), 2))
    assert [number for number, _, _ in seen] == list(range(12))
    assert {threads for _, threads, _ in seen} == {"1"}
    assert len({process for _, _, process in seen} - {os.getpid()}) == 2
    assert "POLARS_MAX_THREADS" not in os.environ


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_reaches_the_caller(workers: int) -> None:
    with pytest.raises(ValueError, match="three"):
        list(map_in_order(_fail, range(9), workers))


def _die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), OVER_TIME)
    return number


def test_a_process_that_is_killed_is_an_error_that_says_what_it_may_be() -> None:
    with pytest.raises(StageProcessError, match=r"one was killed: most likely .* memory, or the base's chat template"):
        list(map_in_order(_die, range(9), 2))


def test_threads_keep_the_order_too() -> None:
    assert list(map_ahead(_fail, [0, 1, 2, 4])) == [0, 1, 2, 4]
    with pytest.raises(ValueError, match="three"):
        list(map_ahead(_fail, range(9)))


def test_a_process_apart_gives_its_result() -> None:
    assert call_apart(_see, 7)[2] != os.getpid()
