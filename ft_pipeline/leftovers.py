"""What lies in a store, is no artifact, and nobody uses any more.

    _downloads/   copies of remote files that no run has read for a while
    _logs/        words of processes whose artifact is not there: of builds that failed, long ago

Drafts, checkpoints and records of runs belong to who writes them (`artifacts.py`, `retention.py`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ft_pipeline.file_lock import try_lock_file

# A file that changes each night leaves as many copies; one that is wanted again later is fetched again.
_COPY_DAYS = 7
_LOG_DAYS = 30
_DAY = 86_400


def find_leftovers(store_root: Path) -> list[Path]:
    """All files of a store that are such."""
    now = time.time()
    return sorted([*_find_old_copies(store_root / "_downloads", now), *_find_old_logs(store_root, now)])


def remove_leftovers(paths: list[Path]) -> None:
    """Remove what `find_leftovers` has found; a copy stays whose address is just being fetched."""
    for path in paths:
        if path.parent.parent.name != "_downloads":
            path.unlink(missing_ok=True)
            continue
        with try_lock_file(path.parent / ".lock") as is_free:
            if is_free:
                path.unlink(missing_ok=True)


def count_disk_bytes(path: Path, seen: set[int]) -> int:
    """Bytes of a file, or of all files below a folder, that are not among the inodes `seen`, which they join."""
    total = 0
    for found in [path, *path.rglob("*")] if path.is_dir() else [path]:
        with suppress(FileNotFoundError):  # a run may be at work there
            status = found.lstat()
            if status.st_ino not in seen and not found.is_dir():
                seen.add(status.st_ino)
                total += status.st_size
    return total


def _find_old_copies(downloads: Path, now: float) -> Iterator[Path]:
    for folder in downloads.glob("*/"):
        for note in folder.glob("*.json"):
            if _age_days(note, now) > _COPY_DAYS:
                # The note last: without it a copy counts as half there, and is fetched anew.
                yield from (copy for copy in folder.glob(f"{note.stem}.*") if copy != note)
                yield note


def _find_old_logs(store_root: Path, now: float) -> Iterator[Path]:
    for log in (store_root / "_logs").glob("*.log"):
        asset, _, fingerprint = log.stem.rpartition("-")
        if not (store_root / asset / fingerprint).exists() and _age_days(log, now) > _LOG_DAYS:
            yield log


def _age_days(path: Path, now: float) -> float:
    try:
        return (now - path.stat().st_mtime) / _DAY
    except FileNotFoundError:
        return 0
