"""Whether a disk holds what is about to be written to it, and what is said where it does not."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ft_pipeline.errors import DiskSpaceError, ResourceError

_FIX = "Free some, or set FT_PIPELINE_ARTIFACTS to another disk."


def require_space(folder: Path, size_bytes: int, purpose: str, fix: str = _FIX) -> None:
    """Raise `DiskSpaceError` unless the disk of a folder, which need not be there yet, has this many bytes free."""
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < size_bytes:
        raise DiskSpaceError(
            f"{purpose} needs {size_bytes / 2**30:.2f} GiB of disk in {folder}, {free / 2**30:.2f} GiB are free: "
            f"{(size_bytes - free) / 2**30:.2f} GiB short. {fix}"
        )


@contextmanager
def told_of_disk() -> Iterator[None]:
    """A disk that is full or read-only is an error for people in the block; any other `OSError` goes on as it is.

    Raises:
        DiskSpaceError: it is full.
        ResourceError: it is read-only.
    """
    try:
        yield
    except OSError as err:
        if told := explain_disk(err):
            raise told from err
        raise


def explain_disk(err: OSError) -> ResourceError | None:
    """The error for people; None if it is about something else than the disk's state."""
    if err.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" while {err.filename} was written" if err.filename else ""
        return DiskSpaceError(
            f"the disk must hold what a run writes; it became full{place} ({err.strerror}). What was half written is "
            "removed. Free some space, or set FT_PIPELINE_ARTIFACTS to another disk, and run again."
        )
    if err.errno == errno.EROFS:
        return ResourceError(
            f"the disk must let a run write, and {err.filename or 'it'} cannot be written ({err.strerror}). Mount it "
            "for writing (a disk with faults is often made read-only by the kernel: see its log), or set "
            "FT_PIPELINE_ARTIFACTS to another disk, and run again."
        )
    return None
