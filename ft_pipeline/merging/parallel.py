"""Small tasks on all cores, in threads that never outlive the block that started them."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

# A task may bring others, which are done next.
Task = Callable[[], "Iterable[Task] | None"]
# More wait for each other in Python: 8B on 16 cores took 11.2 s with 8 workers, 14.4 s with 4, 31 s with 16.
_MAX_WORKERS = 8
_POLL_SECONDS = 0.1
_STOP_SECONDS = 1.0


class Stopped(Exception):
    """No error of its own: another task has failed, or the process is asked to end."""


class Workers:
    """Threads that take tasks from one line.

    Attributes:
        done: Number of finished tasks.
    """

    def __init__(self, tasks: Iterable[Task], count: int | None = None) -> None:
        self.done = 0
        self._line = deque(tasks)
        self._change = threading.Condition()
        self._running = 0
        self._error: BaseException | None = None
        self._is_over = False
        self._count = count or min(_MAX_WORKERS, len(os.sched_getaffinity(0)))

    @property
    def total(self) -> int:
        """Number of tasks that are known."""
        return self.done + self._running + len(self._line)

    def check(self) -> None:
        """To be called by long tasks every few milliseconds.

        Raises:
            Stopped: the task shall end.
        """
        if self._is_over:
            raise Stopped

    def run(self, report: Callable[[int, int], None]) -> None:
        """Do all tasks; the first error ends the others and is raised here.

        Args:
            report: Called in this thread now and then with the numbers of tasks done and known.
        """
        threads = [threading.Thread(target=self._work, name=f"merge-{i}", daemon=True) for i in range(self._count)]
        with _one_torch_thread_each():
            try:
                for thread in threads:
                    thread.start()
                while self._is_busy():
                    report(self.done, self.total)
            finally:
                self._end()
                for thread in threads:
                    if thread.ident:
                        thread.join(_STOP_SECONDS)
        if self._error is not None:
            raise self._error

    def _is_busy(self) -> bool:
        with self._change:
            if not self._is_over:
                self._change.wait(_POLL_SECONDS)
            return not self._is_over

    def _end(self) -> None:
        with self._change:
            self._is_over = True
            self._change.notify_all()

    def _work(self) -> None:
        while (task := self._take()) is not None:
            try:
                more = list(task() or ())
            except Stopped:
                return
            except BaseException as err:  # noqa: BLE001 - raised again by `run`
                self._error = self._error or err
                self._end()
                return
            with self._change:
                self._line.extendleft(reversed(more))
                self._running -= 1
                self.done += 1
                if not self._line and not self._running:
                    self._is_over = True
                self._change.notify_all()

    def _take(self) -> Task | None:
        with self._change:
            while not self._line and self._running and not self._is_over:
                self._change.wait()
            if self._is_over or not self._line:
                self._is_over = True
                self._change.notify_all()
                return None
            self._running += 1
            return self._line.popleft()


@contextmanager
def _one_torch_thread_each() -> Iterator[None]:
    """Every thread would start as many of its own otherwise."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
