"""The same function on many pieces, in several processes where there is much to do, results in order."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from ft_pipeline.errors import StageProcessError

_Argument = TypeVar("_Argument")
_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")
# A process takes seconds to start and import.
_WORTH_BYTES = 48 << 20
_ENVIRONMENT = {
    # There is a process for each core: threads of the libraries would only take turns with them.
    "POLARS_MAX_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # Buffers of megabytes are taken and given back all the time: glibc keeps them, or a fifth of the time goes into
    # fetching pages.
    "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}
_function: Callable[[Any], Any]


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
        function: Goes to each process once, so it may hold what all pieces share.
        pieces: What it is called with.
        workers: Number of processes; with one, all is done in this one.

    Raises:
        StageProcessError: one of the processes was killed.
    """
    if workers <= 1:
        yield from map(function, pieces)
        return
    waiting: deque[Future[_Result]] = deque()
    with _start_pool(workers, function) as pool:
        try:
            for piece in pieces:
                waiting.append(pool.submit(_call, piece))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as err:
            raise StageProcessError(
                "processes that look at rows must come to their end, and one was killed: most likely the machine ran "
                "out of memory, or the base's chat template computes without end. Free memory, or use another base."
            ) from err
        finally:
            for future in waiting:
                future.cancel()


def map_ahead(function: Callable[[_Piece], _Result], pieces: Iterable[_Piece]) -> Iterator[_Result]:
    """Results in the order of the pieces, from threads; one a core is made ahead, and no more are in memory.

    Args:
        function: Spends its time in code that lets other threads run: numpy's, polars', the reading of files.
        pieces: What it is called with.
    """
    cores = len(os.sched_getaffinity(0))
    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(cores) as threads:
        for piece in pieces:
            waiting.append(threads.submit(function, piece))
            if len(waiting) > cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def call_apart(function: Callable[[_Argument], _Result], argument: _Argument) -> _Result:
    """The result of a function in a process of its own, which takes the libraries that it loads with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, argument).result()


def _start_pool(workers: int, function: Callable[[Any], Any]) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_keep, initargs=(function,))
    with _environment(_ENVIRONMENT):  # which processes read when they start: one with each call
        for _ in range(workers):
            pool.submit(os.getpid)
    return pool


def _keep(function: Callable[[Any], Any]) -> None:
    global _function  # noqa: PLW0603
    _function = function


def _call(piece: Any) -> Any:
    return _function(piece)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
