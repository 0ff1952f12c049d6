"""Copies of files that lie elsewhere, each whole or not there.

<downloads>/<hash of the URL>/<key><suffix>   the bytes
<downloads>/<hash of the URL>/<key>.json      their hash and size, written when they are safe on the disk; its time is
                                              that of their last use, by which old ones go (`leftovers.py`)
<downloads>/<hash of the URL>/.lock           held while one is fetched
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.datasets.sources.network import FULL_DISK
from ft_pipeline.durable import sync, write_file
from ft_pipeline.errors import DiskSpaceError, SourceError
from ft_pipeline.file_lock import lock_file
from ft_pipeline.fingerprint import hash_file

MAX_FILE_BYTES = 64 << 30
# SHA-256 of a file in hex; one who looks often remembers it of files that have not changed.
HashOf = Callable[[Path], str]
_MARGIN_BYTES = 256 << 20


@dataclass(frozen=True)
class Copy:
    """A file on this machine and what is in it."""

    path: Path
    sha256: str
    size_bytes: int


@contextmanager
def open_folder(downloads: Path, *address: str | None) -> Iterator[Path]:
    """Hold the folder of the copies of one address; what a killed process has left there is removed.

    Raises:
        SourceError: the folder cannot be written.
        DiskSpaceError: the disk is full.
    """
    folder = downloads / hashlib.sha256(json.dumps(address).encode()).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock_file(folder / ".lock"):
            for left in folder.glob(".*.part"):
                left.unlink()
            yield folder
    except OSError as err:
        if err.errno in FULL_DISK:
            raise DiskSpaceError(f"the disk of {downloads} is full. Free some space and run again") from err
        raise SourceError(f"{folder}: copies of remote sources cannot be kept there: {err.strerror or err}") from err


def find_copy(folder: Path, key: str, suffix: str, hash_of: HashOf) -> Copy | None:
    """The copy of that key if it is there and its bytes are what they were."""
    path = folder / (key + suffix)
    try:
        facts = folder / f"{key}.json"
        note = json.loads(facts.read_text(encoding="utf-8"))
        if path.stat().st_size == note["size_bytes"] and hash_of(path) == note["sha256"]:
            os.utime(facts)
            return Copy(path, note["sha256"], note["size_bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or half there: fetched anew
    return None


@contextmanager
def draft(folder: Path) -> Iterator[Path]:
    """A name for a file that is being written; what is left there at the end is removed."""
    path = folder / f".{secrets.token_hex(8)}.part"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def keep_copy(written: Path, key: str, suffix: str, note: dict[str, str | None], sha256: str | None = None) -> Copy:
    """Make a whole draft the copy of that key."""
    sync(written)
    copy = Copy(written.with_name(key + suffix), sha256 or hash_file(written), written.stat().st_size)
    written.replace(copy.path)
    sync(written.parent)
    facts = {**note, "sha256": copy.sha256, "size_bytes": copy.size_bytes}
    write_file(written.with_name(f"{key}.json"), json.dumps(facts, sort_keys=True))
    return copy


def require_room(folder: Path, size_bytes: int, name: str) -> None:
    """Check that a file of that size may and can be fetched.

    Raises:
        SourceError: it is larger than `MAX_FILE_BYTES`.
        DiskSpaceError: the disk has not that much free.
    """
    if size_bytes > MAX_FILE_BYTES:
        raise SourceError(
            f"{name}: has {size_bytes / 2**30:.2f} GiB, a source has at most {MAX_FILE_BYTES / 2**30:.2f} GiB. Split it"
        )
    free = shutil.disk_usage(folder).free
    if free < size_bytes + _MARGIN_BYTES:
        raise DiskSpaceError(
            f"{name}: its copy needs {size_bytes / 2**30:.2f} GiB of disk in {folder.parent}, {free / 2**30:.2f} GiB "
            "are free. Free some, or set FT_PIPELINE_ARTIFACTS to another disk"
        )
