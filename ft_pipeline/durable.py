"""Files that are whole or not there, also after a power cut."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FLUSH_SECONDS = 1.0


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def flushing(path: Path) -> Iterator[None]:
    """Have the kernel write a file back while another process writes it, so that `sync` finds little left to do.

    What goes wrong with that is left to `sync`, which will meet it too.
    """
    is_over = threading.Event()

    def flush() -> None:
        while not is_over.wait(_FLUSH_SECONDS):
            with suppress(OSError):
                sync(path)

    thread = threading.Thread(target=flush, name="flush", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()  # a flush that is under way may end by itself


def sync_tree(folder: Path) -> None:
    """Flush all files and folders below a folder, and itself."""
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)


def link_or_copy(source: Path, target: Path) -> None:
    """Have a file also under another name, whose folders are made: a hard link, or a copy where there can be none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)  # a link to a symbolic link would be one too
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def remove_path(path: Path, *, ignore_errors: bool = False) -> None:
    """Remove a file, a folder with all that is in it, or a link itself; nothing is done where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=ignore_errors)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError:
        if not ignore_errors:
            raise


def write_file(path: Path, content: str | bytes) -> None:
    """Replace a file's content at once: a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)
