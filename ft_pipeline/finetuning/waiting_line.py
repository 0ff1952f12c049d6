"""Who is next for a device: a folder of tickets, each a file that its owner holds a kernel lock on.

A ticket is live while its `flock` is held, so one whose owner was killed is known at once and whoever comes by removes
it. Tickets are named by the time since the machine's start, which all processes share and no clock change moves.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ft_pipeline.errors import ResourceError
from ft_pipeline.file_lock import try_lock

_NAME = re.compile(r"\d{20}-\d{1,10}")
_TRIES = 100


class WaitingLine:
    """Our ticket for a device and those of others.

    Args:
        folder: The device's folder of tickets; it is made for all users if it is missing.

    Raises:
        ResourceError: there is no ticket to be had in that folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._directory = _open_folder(folder)
        except OSError as err:
            raise ResourceError(f"{folder} cannot be opened: {err.strerror}. Set FT_PIPELINE_LOCK_DIR.") from err
        try:
            self.name, self._ticket = self._take_ticket()
        except BaseException:
            os.close(self._directory)
            raise

    @property
    def descriptors(self) -> tuple[int, int]:
        """What a forked child must close, or our place would outlive us."""
        return self._ticket, self._directory

    def is_first(self) -> bool:
        """Whether nobody who is alive came before us."""
        return next(self._ahead(), None) is None

    def count_ahead(self) -> int:
        """How many are alive and came before us."""
        return sum(1 for _ in self._ahead())

    def leave(self) -> None:
        """Give up our place, at the head or elsewhere."""
        with suppress(OSError):
            os.unlink(self.name, dir_fd=self._directory)
        os.close(self._ticket)
        os.close(self._directory)

    def _ahead(self) -> Iterator[str]:
        # By descriptor: the folder's name may be another folder's by now.
        for name in sorted(filter(_NAME.fullmatch, os.listdir(self._directory))):  # noqa: PTH208
            if name >= self.name:
                return
            if self._is_live(name):
                yield name

    def _is_live(self, name: str) -> bool:
        try:
            # A pipe in the place of a ticket would keep us waiting for its writer.
            descriptor = os.open(
                name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory
            )
        except OSError:
            return False
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return False
            # Shared: two who look at once must not take each other for the owner.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            with suppress(OSError):  # another user's, which the sticky bit protects: it is passed over
                os.unlink(name, dir_fd=self._directory)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _take_ticket(self) -> tuple[str, int]:
        for _ in range(_TRIES):
            name = f"{time.clock_gettime_ns(time.CLOCK_BOOTTIME):020d}-{os.getpid()}"
            try:
                ticket = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=self._directory)
            except FileExistsError:
                continue
            except OSError as err:
                raise ResourceError(
                    f"no place in the line can be had in {self._folder}: {err.strerror}. Set FT_PIPELINE_LOCK_DIR."
                ) from err
            os.fchmod(ticket, 0o666)
            # Before it is locked it looks like a dead man's, and may be tested or swept away.
            if try_lock(ticket) and os.fstat(ticket).st_nlink:
                return name, ticket
            with suppress(OSError):
                os.unlink(name, dir_fd=self._directory)
            os.close(ticket)
        raise ResourceError(f"no place in the line can be had in {self._folder}: somebody takes every ticket away.")


def _open_folder(folder: Path) -> int:
    with suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o1777)  # other users of the machine wait here too
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
