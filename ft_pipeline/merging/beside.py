"""The comparison of logits in a process of its own, beside the merge whose files it reads as soon as they are written.

Its libraries take seconds to import, and in a thread that holds up every worker of the merge: 31 s instead of 11 (8B,
16 cores).
"""

from __future__ import annotations

import multiprocessing
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from ft_pipeline.errors import PipelineError, StageProcessError

# What the other process does with the messages as they come; what it gives back travels between the processes.
Work = Callable[[Iterator[Any]], Any]


class Beside:
    """The other process, seen from here."""

    def __init__(self, process: Any, pipe: Connection, name: str) -> None:
        self._process, self._pipe, self._name = process, pipe, name
        self._lock = threading.Lock()

    def tell(self, message: Any) -> None:
        """Send a message, from any thread. That the process has died is told by `ask`."""
        with self._lock, suppress(OSError):
            self._pipe.send(("message", message))

    def ask(self) -> Any:
        """There are no more messages: wait for the outcome.

        Raises:
            PipelineError: what the work raised.
            StageProcessError: the process died, or failed in a way that nobody foresaw.
        """
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # it may have failed already, and said so
                self._pipe.send(("end", None))
            kind, found = self._pipe.recv()
        except (EOFError, OSError) as err:
            self._process.join()
            raise StageProcessError(
                f"the process that runs {self._name} ended without a result (exit status {self._process.exitcode}); "
                "most likely the machine ran out of memory"
            ) from err
        if kind == "result":
            return found
        raise found


@contextmanager
def running_beside(prepare: Callable[[], None], work: Work) -> Iterator[Beside]:
    """Start a process that prepares itself, and works on messages. It ends with the block at the latest.

    Args:
        prepare: Called at once in the process; what it raises does not count.
        work: A function of a module.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, prepare, work), daemon=True)
    process.start()
    there.close()  # so that the end of the process is the end of the pipe
    try:
        yield Beside(process, here, work.__name__)
    finally:
        process.kill()
        process.join()
        here.close()


def _serve(pipe: Connection, prepare: Callable[[], None], work: Work) -> None:
    with suppress(Exception):  # it fails again, and is told, where it is needed
        prepare()
    try:
        pipe.send(("result", work(_receive(pipe))))
    except PipelineError as err:
        pipe.send(("error", err))
    except (EOFError, ConnectionError):
        return  # the merge has failed
    except Exception as err:  # noqa: BLE001 - the boundary of the process
        pipe.send(("error", StageProcessError(f"{type(err).__name__}: {err}\n{traceback.format_exc()}")))


def _receive(pipe: Connection) -> Iterator[Any]:
    while True:
        kind, message = pipe.recv()
        if kind == "end":
            return
        yield message


class Arrivals:
    """Names that come in one by one, and who waits for them.

    Args:
        names: A thread takes them from here as they come. After the last one everything is there.
    """

    def __init__(self, names: Iterator[str]) -> None:
        self._there: set[str] = set()
        self._is_over = False
        self._change = threading.Condition()
        threading.Thread(target=self._listen, args=(names,), name="arrivals", daemon=True).start()

    def wait(self, name: str) -> None:
        """Until this name has come."""
        with self._change:
            self._change.wait_for(lambda: self._is_over or name in self._there)

    def _listen(self, names: Iterator[str]) -> None:
        with suppress(EOFError, ConnectionError):  # the merge has failed, and ends this process
            for name in names:
                with self._change:
                    self._there.add(name)
                    self._change.notify_all()
        with self._change:
            self._is_over = True
            self._change.notify_all()
