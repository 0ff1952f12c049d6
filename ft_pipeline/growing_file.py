"""The hash of a file that somebody else appends to, computed right behind the writer while its bytes are still warm."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_CHUNK_BYTES = 1 << 22
_POLL_SECONDS = 0.1


class GrowingHash:
    """SHA-256 of a file that grows. Only for a writer that never goes back.

    Args:
        path: The file, which may not be there yet.
        may_begin: Asked again and again before the first byte is read, in another thread.

    Attributes:
        sha256: In hex, of the whole file; empty before `hashing` has ended.
    """

    def __init__(self, path: Path, may_begin: Callable[[], bool]) -> None:
        self.sha256 = ""
        self._path, self._may_begin = path, may_begin
        self._digest = hashlib.sha256()
        self._offset = 0
        self._is_over = threading.Event()

    def follow(self) -> None:
        """Read what is there, again and again, until the writer is done."""
        has_begun = False
        while not self._is_over.wait(_POLL_SECONDS):
            has_begun = has_begun or self._may_begin()
            if has_begun:
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
def hashing(path: Path, may_begin: Callable[[], bool] | None = None) -> Iterator[GrowingHash]:
    """Hash a file while the body has it written; the result is there after the block, if nothing was raised in it.

    Args:
        path: The file.
        may_begin: Whether what is in it now stays as it is; None: as soon as it is there.
    """
    growing = GrowingHash(path, may_begin or path.is_file)
    thread = threading.Thread(target=growing.follow, name="hash", daemon=True)
    thread.start()
    try:
        yield growing
    finally:
        growing.end()
        thread.join()
    growing.finish()
