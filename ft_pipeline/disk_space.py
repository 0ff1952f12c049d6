"""Whether a disk holds what is about to be written to it."""

from __future__ import annotations

import shutil
from pathlib import Path

from ft_pipeline.errors import DiskSpaceError


def require_space(folder: Path, size_bytes: int, purpose: str) -> None:
    """Raise `DiskSpaceError` unless the disk of a folder, which need not be there yet, has this many bytes free."""
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < size_bytes:
        raise DiskSpaceError(
            f"{purpose} needs {size_bytes / 2**30:.2f} GiB of disk in {folder}, {free / 2**30:.2f} GiB are free: "
            f"{(size_bytes - free) / 2**30:.2f} GiB short. Free some, or set FT_PIPELINE_ARTIFACTS to another disk."
        )
