"""What a chat template may take: it is a program that comes with the base, and nobody has looked at it.

Jinja's sandbox keeps it from Python's insides, not from looping for ever or filling the memory: `range` ends at
100,000, but loops nest, and a text can be doubled forty times.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ft_pipeline.errors import BaseModelError

# Templates of known families take some microseconds a message.
MAX_CPU_SECONDS = 10.0
# Where a library's C code never comes back to Python (the hash of a tuple in a tuple, sixty deep), an exception ends
# nothing: then the kernel ends the process.
_KILL_FACTOR = 1.5
# Beyond what the process has when rendering begins.
MAX_MEMORY_BYTES = 2 << 30
MAX_TEXT_CHARS = 64 << 20
# By which a process dies whose template is not to be ended otherwise; nothing else here sends it.
OVER_TIME = signal.SIGVTALRM
_STATE = Path("/proc/self/statm")


class _TimeIsUp(BaseException):
    """The timer rang. No `Exception`: nothing on the way may take it for a failure of the template on one row."""


class TimeLimit:
    """Ends a rendering that takes too much computing; a machine that is busy with other things does not count.

    One that cannot be ended takes its process along, by `OVER_TIME`. To be made and used in a process's main thread,
    where signals arrive, and entered for each rendering.

    Args:
        source: Whose template it is.

    Raises:
        BaseModelError: on leaving: the rendering was ended.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        signal.signal(signal.SIGPROF, _ring)

    def __enter__(self) -> None:
        # Again and again: what is raised while an object is deleted is lost.
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_SECONDS, 1)
        signal.setitimer(signal.ITIMER_VIRTUAL, MAX_CPU_SECONDS * _KILL_FACTOR)

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if kind is _TimeIsUp:
            raise BaseModelError(_describe(self._source, f"{MAX_CPU_SECONDS:g} s of computing")) from None


@contextmanager
def limit_memory(source: str) -> Iterator[None]:
    """End renderings that take too much memory, before the machine runs out of it.

    Raises:
        BaseModelError: they were ended.
    """
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = int(_STATE.read_text().split()[0]) * resource.getpagesize() + MAX_MEMORY_BYTES
    limits = [limit for limit in (wanted, before, most) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), most))
    try:
        yield
    except MemoryError:
        raise BaseModelError(_describe(source, f"{MAX_MEMORY_BYTES / 2**30:.0f} GiB of memory")) from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, most))


def require_size(text: str, source: str) -> None:
    """Refuse a rendering that is beyond all measure.

    Raises:
        BaseModelError: it is.
    """
    if len(text) > MAX_TEXT_CHARS:
        raise BaseModelError(_describe(source, f"{MAX_TEXT_CHARS:,} characters"))


def _ring(_signal: int, frame: FrameType | None) -> None:
    while frame:
        if frame.f_code is _LEAVING:
            return  # the rendering has ended in time, and nobody would catch this
        frame = frame.f_back
    raise _TimeIsUp


_LEAVING = TimeLimit.__exit__.__code__


def _describe(source: str, limit: str) -> str:
    return (
        f"a chat template must render a conversation within {limit}; that of {source} does not. Do not use this base, "
        "or mend its template."
    )
