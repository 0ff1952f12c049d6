"""One user at a time for a device, held by the process that uses it.

A kernel lock (`flock`) on a file per device, at a path that belongs to the machine: it binds runs of any Dagster
instance, checkout and user, and is gone the moment its holder dies, however it dies.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from ft_pipeline.errors import LeaseTimeout, ResourceError
from ft_pipeline.file_lock import wait_for_lock

_TELL_EVERY_SECONDS = 30.0
_open_descriptors: set[int] = set()


def default_lock_dir() -> Path:
    """The machine's folder of device locks, the same for every user: /run/lock where all may write, else /tmp."""
    shared = Path("/run/lock")
    is_for_all = shared.is_dir() and shared.stat().st_mode & stat.S_IWOTH
    return (shared if is_for_all else Path("/tmp")) / "ft_pipeline"  # noqa: S108 - not TMPDIR, which is a user's own


@contextmanager
def hold_device(
    device: str, *, lock_dir: Path, timeout_seconds: float, holder: str, tell: Callable[[str], None]
) -> Iterator[None]:
    """Hold a device while the block runs.

    Args:
        device: Its name: `cpu`, or a GPU's UUID.
        lock_dir: The machine's folder of locks.
        timeout_seconds: How long to wait for it.
        holder: Who we are, for those who wait.
        tell: Called with who holds it since when, when waiting begins and every 30 s.

    Raises:
        LeaseTimeout: it was not free in time; the message says who has it.
        ResourceError: the lock's file cannot be opened.
    """
    path = lock_dir / f"{device}.lock"
    descriptor = _open_lock(path)
    _open_descriptors.add(descriptor)
    told = -_TELL_EVERY_SECONDS

    def on_wait(waited_seconds: float) -> None:
        nonlocal told
        if waited_seconds - told >= _TELL_EVERY_SECONDS:
            told = waited_seconds
            tell(f"waiting for {device}, {waited_seconds:.0f} s so far: {_read_holder(descriptor)}")

    try:
        if not wait_for_lock(descriptor, timeout_seconds, on_wait):
            raise LeaseTimeout(
                f"{device} must be free within {timeout_seconds:.0f} s and was not: {_read_holder(descriptor)}. "
                f"Wait for it or stop it, or raise gpu.wait_seconds. The lock: {path}"
            )
        _write_holder(descriptor, holder)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        _open_descriptors.discard(descriptor)
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.parent.chmod(0o1777)  # other users of the machine wait here too
        # Without O_CREAT first: in a sticky folder the kernel refuses O_CREAT on another user's file
        # (fs.protected_regular).
        with suppress(FileNotFoundError):
            return os.open(path, flags)
        with suppress(FileExistsError):
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            os.fchmod(descriptor, 0o666)
            return descriptor
        return os.open(path, flags)
    except OSError as err:
        raise ResourceError(f"the lock {path} cannot be opened: {err.strerror}. Set FT_PIPELINE_LOCK_DIR.") from err


def _write_holder(descriptor: int, holder: str) -> None:
    record = {"pid": os.getpid(), "holder": holder, "since": datetime.now(UTC).isoformat(timespec="seconds")}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(record).encode(), 0)


def _read_holder(descriptor: int) -> str:
    try:
        record = json.loads(os.pread(descriptor, 4096, 0))
        return f"held by {record['holder']} (process {record['pid']}) since {record['since']}"
    except (ValueError, KeyError, TypeError):
        return "held by a process that has not said who it is"


def _close_in_forked_child() -> None:
    # A forked data-loader worker would keep the lock after its parent has died.
    for descriptor in _open_descriptors:
        with suppress(OSError):
            os.close(descriptor)
    _open_descriptors.clear()


os.register_at_fork(after_in_child=_close_in_forked_child)
