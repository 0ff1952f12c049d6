"""Files get to the disk while they are written, so that little is left to wait for at the end."""

from __future__ import annotations

import os
import queue
import threading
from collections import Counter

_FLUSH_BYTES = 256 << 20
_POLL_SECONDS = 0.1


class Flusher:
    """A thread that has the kernel write back what was written to files, some hundred megabytes at a time."""

    def __init__(self) -> None:
        self._written: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._line: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="flush", daemon=True)
        self._thread.start()

    def add(self, descriptor: int, count: int) -> None:
        """So many bytes were written to a file.

        Raises:
            OSError: earlier ones did not get to the disk.
        """
        if self._error is not None:
            raise self._error
        with self._lock:
            self._written[descriptor] += count
            if self._written[descriptor] < _FLUSH_BYTES:
                return
            self._written[descriptor] = 0
        self._line.put(descriptor)

    def complete(self, descriptor: int) -> None:
        """Nothing more will be written to a file."""
        self._line.put(descriptor)

    def wait(self) -> None:
        """Until everything is on the disk.

        Raises:
            OSError: the disk is full, or does not take it.
        """
        self._line.put(None)
        while self._thread.is_alive():
            # A join without an end could not be interrupted.
            self._thread.join(_POLL_SECONDS)
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Do no more; what is under way is left to end by itself."""
        self._line.put(None)

    def _run(self) -> None:
        try:
            while (descriptor := self._line.get()) is not None:
                os.fdatasync(descriptor)
        except OSError as err:
            self._error = err
