"""Parts of a work, done in threads; how far they are is told in the caller's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from ft_pipeline.errors import StageCancelled

ShardT = TypeVar("ShardT")
ResultT = TypeVar("ResultT")
# Hears how many more are done, 0 too; raises `StageCancelled` once the work is given up.
Report = Callable[[int], None]


def run_shards(
    work: Callable[[ShardT, Report], ResultT], shards: Sequence[ShardT], workers: int, on_done: Callable[[int], None]
) -> list[ResultT]:
    """What `work` makes of each shard, in their order. The first error ends all.

    Args:
        work: Called in a thread; to call its report often is how it hears that it is given up.
        shards: The parts.
        workers: Threads.
        on_done: Called in the caller's thread with what is reported. What it raises ends all.
    """
    given_up = threading.Event()
    news: SimpleQueue[int | Future[ResultT]] = SimpleQueue()

    def report(count: int) -> None:
        if given_up.is_set():
            raise StageCancelled("the evaluation was asked to stop")
        if count:
            news.put(count)

    with ThreadPoolExecutor(workers, thread_name_prefix="decoder") as pool:
        futures = [pool.submit(work, shard, report) for shard in shards]
        for future in futures:
            future.add_done_callback(news.put)
        try:
            left = len(futures)
            while left:
                item = news.get()
                if isinstance(item, Future):
                    item.result()
                    left -= 1
                else:
                    on_done(item)
        except BaseException:
            given_up.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]
