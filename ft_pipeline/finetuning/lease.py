"""One user at a time for a device, held by the process that uses it, and given on in the order of asking.

A kernel lock (`flock`) on a file per device, at a path that belongs to the machine: it binds runs of any Dagster
instance, checkout and user, and is gone the moment its holder dies, however it dies. The lock excludes; the line
(`waiting_line.py`) only says who tries for it first.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from ft_pipeline.errors import LeaseTimeout, ResourceError
from ft_pipeline.file_lock import try_lock
from ft_pipeline.finetuning.waiting_line import WaitingLine

_POLL_SECONDS = 0.1
_LOOK_EVERY_SECONDS = 1.0
_TELL_EVERY_SECONDS = 60.0
# A device that has been free for so long is not wanted by whoever is first: stopped, or not one of us.
_PASS_OVER_SECONDS = 5.0
_open_descriptors: set[int] = set()


def default_lock_dir(root: Path = Path("/")) -> Path:
    """The machine's folder of device locks, the same for every user, unit and container.

    /run/lock/ft_pipeline where it is there for all, or where all may make it; else, as on Fedora and Arch without a
    service, /tmp/ft_pipeline.
    """
    shared = root / "run/lock"
    own = shared / "ft_pipeline"
    is_for_all = any(folder.is_dir() and folder.stat().st_mode & stat.S_IWOTH for folder in (own, shared))
    return own if is_for_all else root / "tmp/ft_pipeline"  # not TMPDIR, which is a user's own


@contextmanager
def hold_device(
    device: str, *, lock_dir: Path, timeout_seconds: float, holder: str, tell: Callable[[str], None]
) -> Iterator[None]:
    """Hold a device while the block runs.

    Waiting polls: an exception that a signal raises (Ctrl-C, Dagster's interrupt) ends it at once.

    Args:
        device: Its name: `cpu`, or a GPU's UUID.
        lock_dir: The machine's folder of locks.
        timeout_seconds: How long to wait for it.
        holder: Who we are, for those who wait.
        tell: Called with who holds it since when and our place in the line: when waiting begins, when either changes,
            and every minute.

    Raises:
        LeaseTimeout: it was not free in time; the message says who has it.
        ResourceError: the lock's file or the line cannot be used.
    """
    make_lock_folder(lock_dir)
    with ExitStack() as stack:
        with _stand_in_line(lock_dir / f"{device}.queue") as line:
            waiter = _Waiter(device, lock_dir / f"{device}.lock", line, tell)
            descriptor = stack.enter_context(waiter.wait(timeout_seconds))
        _write_holder(descriptor, holder)
        try:
            yield
        finally:
            _forget_holder(descriptor)


class _Waiter:
    """Waits at its place in the line until the lock is ours."""

    def __init__(self, device: str, path: Path, line: WaitingLine, tell: Callable[[str], None]) -> None:
        self._device = device
        self._path = path
        self._line = line
        self._tell = tell
        self._free_since: float | None = None
        self._told = ""
        self._told_at = self._looked_at = -_TELL_EVERY_SECONDS

    @contextmanager
    def wait(self, timeout_seconds: float) -> Iterator[int]:
        """The open and locked file, which is closed afterwards."""
        started = time.monotonic()
        with ExitStack() as stack:
            descriptor = stack.enter_context(_open_lock(self._path))
            while not self._try(descriptor):
                waited = time.monotonic() - started
                if waited >= timeout_seconds:
                    raise LeaseTimeout(
                        f"{self._device} must be free within {timeout_seconds:.0f} s and was not: "
                        f"{self._describe(descriptor)}. Wait for it or stop it, or raise gpu.wait_seconds. "
                        f"The lock: {self._path}"
                    )
                self._say(descriptor, waited)
                time.sleep(_POLL_SECONDS)
                if not _is_at(descriptor, self._path):  # somebody has cleaned the folder up
                    stack.close()
                    descriptor = stack.enter_context(_open_lock(self._path))
            if self._told:
                self._tell(f"{self._device} is ours after {time.monotonic() - started:.0f} s")
            yield descriptor

    def _try(self, descriptor: int) -> bool:
        if self._line.is_first():
            self._free_since = None
        elif not self._is_passed_over(descriptor):
            return False
        return try_lock(descriptor) and _is_at(descriptor, self._path)

    def _is_passed_over(self, descriptor: int) -> bool:
        """Whether the device has been free for so long that those before us cannot want it: each gets its chance."""
        if not _is_free(descriptor):
            self._free_since = None
            return False
        now = time.monotonic()
        self._free_since = self._free_since or now
        return now - self._free_since >= _PASS_OVER_SECONDS * self._line.count_ahead()

    def _say(self, descriptor: int, waited_seconds: float) -> None:
        if waited_seconds - self._looked_at < _LOOK_EVERY_SECONDS:
            return
        self._looked_at = waited_seconds
        found = self._describe(descriptor)
        if found != self._told or waited_seconds - self._told_at >= _TELL_EVERY_SECONDS:
            self._told, self._told_at = found, waited_seconds
            self._tell(f"waiting for {self._device}, {waited_seconds:.0f} s so far: {found}")

    def _describe(self, descriptor: int) -> str:
        held = "free, but not taken yet by who is first" if self._free_since else _read_holder(descriptor)
        return f"{held}; our place in the line: {self._line.count_ahead() + 1}"


def make_lock_folder(folder: Path) -> None:
    """Make the machine's folder of locks, for all its users.

    Raises:
        ResourceError: it cannot be made.
    """
    try:
        if folder.is_symlink() and folder.lstat().st_uid not in {0, os.geteuid()}:
            raise ResourceError(
                f"the folder of locks must not be another user's link; {folder} leads to {os.readlink(folder)}. Remove "  # noqa: PTH115
                "it, or set FT_PIPELINE_LOCK_DIR."
            )
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o1777)  # other users of the machine wait here too
    except OSError as err:
        raise ResourceError(
            f"the folder of locks {folder} cannot be made: {err.strerror}. Set FT_PIPELINE_LOCK_DIR."
        ) from err


@contextmanager
def _stand_in_line(folder: Path) -> Iterator[WaitingLine]:
    line = WaitingLine(folder)
    _open_descriptors.update(line.descriptors)
    try:
        yield line
    finally:
        _open_descriptors.difference_update(line.descriptors)
        line.leave()


@contextmanager
def _open_lock(path: Path) -> Iterator[int]:
    try:
        descriptor = _open_file(path)
    except OSError as err:
        raise ResourceError(f"the lock {path} cannot be opened: {err.strerror}. Set FT_PIPELINE_LOCK_DIR.") from err
    _open_descriptors.add(descriptor)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ResourceError(f"the lock {path} cannot be opened: it is no file. Set FT_PIPELINE_LOCK_DIR.")
        yield descriptor
    finally:
        if descriptor in _open_descriptors:  # not so in a forked child, where the number may be another file's by now
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # before it is forgotten: a child forked in between would keep it
            _open_descriptors.discard(descriptor)
            os.close(descriptor)


def _open_file(path: Path) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    # Without O_CREAT first: in a sticky folder the kernel refuses O_CREAT on another user's file
    # (fs.protected_regular).
    with suppress(FileNotFoundError):
        return os.open(path, flags)
    with suppress(FileExistsError):
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
        os.fchmod(descriptor, 0o666)
        return descriptor
    return os.open(path, flags)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still what others find under its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))  # noqa: PTH116
    except FileNotFoundError:
        return False


def _is_free(descriptor: int) -> bool:
    """Whether nobody holds the lock; shared, so that two who look do not see each other."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def _write_holder(descriptor: int, holder: str) -> None:
    record = {"pid": os.getpid(), "holder": holder, "since": datetime.now(UTC).isoformat(timespec="seconds")}
    with suppress(OSError):  # a full disk: the lock counts, the record is for people
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(record).encode(), 0)


def _forget_holder(descriptor: int) -> None:
    if descriptor in _open_descriptors:
        with suppress(OSError):
            os.ftruncate(descriptor, 0)


def _read_holder(descriptor: int) -> str:
    try:
        record = json.loads(os.pread(descriptor, 4096, 0))
        said = f"held by {record['holder']} (process {record['pid']}) since {record['since']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "held by a process that has not said who it is"
    return "".join(char for char in said if char.isprintable())[:300]


def _close_in_forked_child() -> None:
    # A forked data-loader worker would keep our locks after we have died.
    for descriptor in _open_descriptors:
        with suppress(OSError):
            os.close(descriptor)
    _open_descriptors.clear()


os.register_at_fork(after_in_child=_close_in_forked_child)
