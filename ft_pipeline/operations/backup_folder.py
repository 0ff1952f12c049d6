"""A folder of backups, and what a store remembers of the last one.

<folder>/ft_pipeline-<when, in UTC>.tar    the backups of one store
<store>/_last_backup.json                  when the last one was made, and where it is
"""

from __future__ import annotations

import json
import shutil
import tarfile
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from ft_pipeline.durable import write_file
from ft_pipeline.operations.contents import CONTENTS_FORMAT
from ft_pipeline.store_names import find_files
from ft_pipeline.stored_format import FIELD, StoredFormat

_FORMAT = StoredFormat()
_NAME = r"ft_pipeline-[0-9]{8}T[0-9]{6}Z\.tar"


class LastBackup(BaseModel):
    """The last backup of a store; `is_one_of_many`: others go for it, as where a timer makes them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    at: AwareDatetime
    path: str
    is_one_of_many: bool


def name_backup(created_at: datetime) -> str:
    """What a backup is called; what is called otherwise is none."""
    return f"ft_pipeline-{created_at:%Y%m%dT%H%M%SZ}.tar"


def remove_drafts(folder: Path) -> None:
    """Remove what backups that were killed have left there."""
    for left in find_files(folder, rf"\.{_NAME}\.draft"):
        left.unlink()


def note_backup(store_root: Path, last: LastBackup) -> None:
    """Remember it."""
    write_file(store_root / "_last_backup.json", last.model_dump_json())


def require_known_note(store_root: Path) -> None:
    """See that this version may write that.

    Raises:
        NewerFormat: a newer version has.
    """
    with suppress(ValueError):  # what does not read is written anew
        read_last_backup(store_root)


def read_last_backup(store_root: Path) -> LastBackup | None:
    """The last backup of a store; None where none was made.

    Raises:
        NewerFormat: a newer version has made it.
        ValueError: the note does not read.
    """
    try:
        return _FORMAT.read(store_root / "_last_backup.json", LastBackup)
    except FileNotFoundError:
        return None


def prune_backups(made: Path, keep: int) -> list[Path]:
    """Remove all but so many backups beside the one that was just made, which stays; those that are gone now."""
    older = _list_older(made)[keep - 1 :]
    for path in older:
        path.unlink()
    return older


def make_room(to_make: Path, need_bytes: int, keep: int | None) -> list[Path]:
    """Remove before what would go afterwards, if the backup fits only then; the last one stays in any case."""
    going: list[Path] = []
    free = shutil.disk_usage(to_make.parent).free
    for path in reversed(_list_older(to_make)[max(keep - 1, 1) :] if keep else []):
        if free < need_bytes:
            going.append(path)
            free += path.stat().st_size
    if free < need_bytes:  # it would not fit even so
        return []
    for path in going:
        path.unlink()
    return going


def _list_older(made: Path) -> list[Path]:
    """All others, newest first; those that say to be later are of a clock that was wrong, and come last.

    None of a newer version's: this one does not know what they hold.
    """
    others = [path for path in find_files(made.parent, _NAME) if path != made and not _is_newer(path)]
    return sorted(others, key=lambda path: (path.name < made.name, path.name), reverse=True)


def _is_newer(backup: Path) -> bool:
    with suppress(OSError, tarfile.TarError, ValueError, RecursionError), tarfile.open(backup, "r:") as archive:
        first = archive.next()
        stream = archive.extractfile(first) if first and first.isfile() else None
        table = json.load(stream) if stream else None
        found = table.get(FIELD) if isinstance(table, dict) else None
        return isinstance(found, int) and found > CONTENTS_FORMAT.present
    return False
