"""The hash of a file that somebody else appends to, computed right behind the writer while its bytes are still warm."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CHUNK_BYTES = 1 << 22
_POLL_SECONDS = 0.1


class GrowingHash:
    """SHA-256 of a file that grows. Only for a writer that never goes back.

    Attributes:
        sha256: In hex, of the whole file; empty before `hashing` has ended.
    """

    def __init__(self, path: Path) -> None:
        self.sha256 = ""
        self._path = path
        self._digest = hashlib.sha256()
        self._offset = 0
        self._is_over = threading.Event()

    def follow(self) -> None:
        """Read what is there, again and again, until the writer is done."""
        while not self._is_over.wait(_POLL_SECONDS):
            if self._path.is_file():
                self._read()

    def finish(self) -> None:
        """The writer is done: read the rest."""
        self._read()
        self.sha256 = self._digest.hexdigest()

    def end(self) -> None:
        """Do not go on following."""
        self._is_over.set()

    def _read(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            while chunk := file.read(_CHUNK_BYTES):
                self._digest.update(chunk)
                self._offset += len(chunk)


@contextmanager
def hashing(path: Path) -> Iterator[GrowingHash]:
    """Hash a file while the body has it written; the result is there after the block, if nothing was raised in it."""
    growing = GrowingHash(path)
    thread = threading.Thread(target=growing.follow, name="hash", daemon=True)
    thread.start()
    try:
        yield growing
    finally:
        growing.end()
        thread.join()
    growing.finish()
