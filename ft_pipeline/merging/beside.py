"""The comparison of logits in a process of its own, which loads its libraries while the merge writes.

They take seconds to import, and in a thread that holds up every worker of the merge: 31 s instead of 11 (8B, 16 cores).
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from ft_pipeline.errors import PipelineError, StageProcessError


@contextmanager
def running_beside(prepare: Callable[[], None], work: Callable[[Any], Any]) -> Iterator[Callable[[Any], Any]]:
    """Start a process that prepares itself, and gives back what `work` makes of one request.

    Args:
        prepare: Called at once in the process; what it raises does not count.
        work: A function of a module. What it takes and gives back travels between the processes.

    Yields:
        A function that hands the request over and waits for the outcome.

    Raises:
        PipelineError: what `work` raised, from the yielded function.
        StageProcessError: the process died, or failed in a way that nobody foresaw.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, prepare, work), daemon=True)
    process.start()
    there.close()  # so that the end of the process is the end of the pipe

    def ask(request: Any) -> Any:
        try:
            here.send(request)
            kind, found = here.recv()
        except (EOFError, BrokenPipeError) as err:
            process.join()
            raise StageProcessError(
                f"the process that runs {work.__name__} ended without a result (exit status {process.exitcode}); most "
                "likely the machine ran out of memory"
            ) from err
        if kind == "result":
            return found
        raise found

    try:
        yield ask
    finally:
        process.kill()
        process.join()
        here.close()


def _serve(pipe: Connection, prepare: Callable[[], None], work: Callable[[Any], Any]) -> None:
    with suppress(Exception):  # it fails again, and is told, where it is needed
        prepare()
    try:
        request = pipe.recv()
    except EOFError:
        return  # the merge has failed
    try:
        pipe.send(("result", work(request)))
    except PipelineError as err:
        pipe.send(("error", err))
    except Exception as err:  # noqa: BLE001 - the boundary of the process
        pipe.send(("error", StageProcessError(f"{type(err).__name__}: {err}\n{traceback.format_exc()}")))
