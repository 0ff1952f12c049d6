"""What lies in a store, is no artifact, and nobody uses any more.

    _downloads/   copies of remote files that no run has read for a while
    _backup/      links to what a backup that was killed would have saved
    _restore/     what a restore that was killed has unpacked
    _logs/        words of processes whose artifact is not there: of builds that failed, long ago

Drafts, checkpoints and records of runs belong to who writes them (`artifacts.py`, `retention.py`). What the pipeline
would not call so, or a link leads to, is not its own and stays.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ft_pipeline.durable import remove_path
from ft_pipeline.file_lock import try_lock_of_anybody
from ft_pipeline.store_names import KEY_FORM, find_files, find_folders

# A file that changes each night leaves as many copies; one that is wanted again later is fetched again.
_COPY_DAYS = 7
_LOG_DAYS = 30
_DAY = 86_400
# The form of the name of a folder of copies: the SHA-256 of their address.
_ADDRESS = r"[0-9a-f]{64}"
# Where a backup gathers what it saves, and a restore unpacks; each holds the lock of that name meanwhile.
BACKUP, RESTORE = "_backup", "_restore"
_STAGED = (BACKUP, RESTORE)
# In the latter: there while things go from it to their places.
MOVING = "moving.json"


def find_leftovers(store_root: Path) -> list[Path]:
    """All files of a store that are such."""
    now = time.time()
    return sorted([*_find_old_copies(store_root, now), *_find_old_logs(store_root, now), *_find_staged(store_root)])


def remove_leftovers(paths: list[Path]) -> None:
    """Remove what `find_leftovers` has found, but what somebody has begun to use since."""
    folders = {path.parent for path in paths if path.parent.parent.name == "_downloads"}
    for folder in folders:
        with try_lock_of_anybody(folder / ".lock") as is_free:
            for copy in list(_find_old_copies_of(folder, time.time())) if is_free else []:
                remove_path(copy, ignore_errors=True)
    for path in (path for path in paths if path.parent not in folders):
        if path.name not in _STAGED:
            remove_path(path, ignore_errors=True)
            continue
        with try_lock_of_anybody(_lock_of_staged(path)) as is_free:
            if is_free:
                remove_path(path, ignore_errors=True)


def measure_files(path: Path, seen: set[int]) -> int:
    """Bytes of a file, or of all files below a folder, that are not among the inodes `seen`, which they join."""
    total = 0
    for found in [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]:
        with suppress(FileNotFoundError, PermissionError):  # a run may be at work there, or it is another user's
            status = found.lstat()
            if status.st_ino not in seen and not found.is_dir():
                seen.add(status.st_ino)
                total += status.st_size
    return total


def _find_old_copies(store_root: Path, now: float) -> Iterator[Path]:
    for folder in find_folders(store_root, "_downloads", _ADDRESS):
        yield from _find_old_copies_of(folder, now)


def _find_old_copies_of(folder: Path, now: float) -> Iterator[Path]:
    """Of one address: copies with their notes, and what fetches that were killed have left."""
    for note in find_files(folder, r"[^.]+\.json"):
        if _age_days(note, now) > _COPY_DAYS:
            # The note last: without it a copy counts as half there, and is fetched anew.
            yield from (copy for copy in find_files(folder, rf"{re.escape(note.stem)}\..+") if copy != note)
            yield note
    yield from (part for part in find_files(folder, r"\.[0-9a-f]+\.part") if _age_days(part, now) > _COPY_DAYS)


def _find_staged(store_root: Path) -> Iterator[Path]:
    for name in _STAGED:
        folder = store_root / name
        # A store that is half restored is the next restore's matter: it knows from there what to take back.
        if folder.is_symlink() or (folder.exists() and not (folder / MOVING).exists()):
            with try_lock_of_anybody(_lock_of_staged(folder)) as is_free:
                if is_free:
                    yield folder


def _lock_of_staged(folder: Path) -> Path:
    return folder.parent / "_locks" / folder.name.removeprefix("_")


def _find_old_logs(store_root: Path, now: float) -> Iterator[Path]:
    for log in find_files(store_root, "_logs", rf"{KEY_FORM}\.log"):
        asset, _, fingerprint = log.stem.rpartition("-")
        if not (store_root / asset / fingerprint).exists() and _age_days(log, now) > _LOG_DAYS:
            yield log


def _age_days(path: Path, now: float) -> float:
    try:
        return (now - path.stat().st_mtime) / _DAY
    except FileNotFoundError:
        return 0
