"""The same function on many pieces, in several processes where there is much to do, results in order."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")
# A process takes seconds to start and import.
_WORTH_BYTES = 48 << 20


def count_workers(size_bytes: int) -> int:
    """How many processes suit so many bytes of rows: one is this process itself."""
    return len(os.sched_getaffinity(0)) if size_bytes >= _WORTH_BYTES else 1


@contextmanager
def without_cycle_search() -> Iterator[None]:
    """Do not look for cycles while a batch of rows is in memory: plain rows have none, and the search costs a third."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def map_in_order(function: Callable[[_Piece], _Result], pieces: Iterable[_Piece], workers: int) -> Iterator[_Result]:
    """Results in the order of the pieces; no more pieces are in memory than two a process.

    Args:
        function: Known by its module and name, so that a fresh interpreter finds it.
        pieces: What it is called with.
        workers: Number of processes; with one, all is done in this one.
    """
    if workers <= 1:
        yield from map(function, pieces)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting: deque[Future[_Result]] = deque()
        try:
            for piece in pieces:
                waiting.append(pool.submit(function, piece))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
