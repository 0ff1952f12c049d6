"""A stage's own process: `python -m ft_pipeline.processes.child MODULE:FUNCTION MODULE:REQUEST EVENT_DESCRIPTOR`."""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from types import FrameType
from typing import Any, BinaryIO, NoReturn

from ft_pipeline.disk_space import explain_disk
from ft_pipeline.errors import PipelineError, StageCancelled

# A stage that was asked to stop gets this long to put down what it holds; then the whole group is killed.
GRACE_SECONDS = 30.0
# One that holds nothing, and whose parent is gone: it is in the middle of a library's code.
_NOTHING_HELD_SECONDS = 2.0
# Progress is for people: more of it than this only fills the event log.
_PROGRESS_SECONDS = 2.0


class _Cancel(BaseException):
    """SIGTERM came. No `Exception`: what libraries catch while they are imported must not swallow it."""


class EventReporter:
    """Sends a stage's words and figures to the parent."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._next_progress = 0.0

    def send(self, event: str, **fields: Any) -> None:
        """Write one event; a parent that is gone is no error here, the lifeline deals with it."""
        line = json.dumps({"event": event, **fields}).encode() + b"\n"
        try:
            with self._lock:
                self._stream.write(line)
                self._stream.flush()
        except BrokenPipeError:
            return

    def info(self, message: str) -> None:
        self.send("info", message=message)

    def warning(self, message: str) -> None:
        self.send("warning", message=message)

    def progress(self, done: int, total: int, **figures: float) -> None:
        now = time.monotonic()
        if now >= self._next_progress or done == total:
            self._next_progress = now + _PROGRESS_SECONDS
            self.send("progress", done=done, total=total, figures=figures)


def main(function_name: str, request_name: str, event_descriptor: int) -> int:
    """Run a stage's function on its request; the outcome goes to the parent as the last event.

    Returns:
        The exit status: 0 if the stage has a result.
    """
    signal.signal(signal.SIGTERM, _cancel)
    os.set_inheritable(event_descriptor, False)
    events = EventReporter(os.fdopen(event_descriptor, "wb"))
    request = sys.stdin.buffer.readline()
    threading.Thread(target=_watch_parent, name="lifeline", daemon=True).start()
    try:
        run, request_model = _find(function_name), _find(request_name)
        summary = run(request_model.model_validate_json(request), events)
    except _Cancel:
        events.send("error", type=StageCancelled.__name__, message="the stage was asked to stop")
    except PipelineError as err:
        events.send("error", type=type(err).__name__, message=str(err))
    except OSError as err:
        if told := explain_disk(err):
            events.send("error", type=type(told).__name__, message=str(told))
        else:
            _send_crash(events, err)
    except Exception as err:  # noqa: BLE001 - the boundary of the process: everything becomes an event
        _send_crash(events, err)
    else:
        events.send("result", summary=summary.model_dump(), peak_rss_bytes=_peak_rss_bytes())
        return 0
    finally:
        _end_group()
    return 1


def _send_crash(events: EventReporter, err: Exception) -> None:
    events.send("crash", message=f"{type(err).__name__}: {err}", traceback=traceback.format_exc())


def _find(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _end_group() -> None:
    """Take along what the stage has started and left behind; nobody else would, if the parent is gone."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGTERM)


def _cancel(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise _Cancel


def _watch_parent() -> None:
    # Not sys.stdin.read: a thread inside it when the interpreter ends is a fatal error.
    while os.read(0, 1 << 16):
        pass
    holds_nothing = signal.getsignal(signal.SIGTERM) is _cancel  # who has something to put down takes the signal itself
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_NOTHING_HELD_SECONDS if holds_nothing else GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


def _peak_rss_bytes() -> int:
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(own, children) * 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
