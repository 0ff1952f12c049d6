"""The file that a process's words go to: it must not fill the disk when something prints for hours."""

from __future__ import annotations

import os
from pathlib import Path

MOST_BYTES, KEPT_BYTES = 32 << 20, 1 << 20


def cut_log(path: Path, most_bytes: int = MOST_BYTES, kept_bytes: int = KEPT_BYTES) -> None:
    """Cut a log that has grown too long to its end, in place: who writes to it, appending, goes on.

    What is written between the reading and the cutting is lost.
    """
    if not path.exists() or path.stat().st_size <= most_bytes:
        return
    with path.open("r+b") as log:
        log.seek(-kept_bytes, os.SEEK_END)
        end = log.read(kept_bytes)
        log.truncate(0)
    with path.open("ab") as log:
        log.write(b"[what was here before is gone: the log had grown too long]\n" + end)
