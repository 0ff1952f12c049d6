"""Starts a stage in a process of its own, relays what it says, and ends all of it when asked to."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel

from ft_pipeline.datasets.sources.redaction import hide_credentials
from ft_pipeline.datasets.template_limits import OVER_TIME
from ft_pipeline.errors import StageProcessError, error_class
from ft_pipeline.processes.child import GRACE_SECONDS
from ft_pipeline.processes.log_file import cut_log
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.summary import Summary

_TAIL_LINES = 20
_POLL_SECONDS = 0.5
# What a signal that ends a stage most likely means.
_DEATHS = {
    signal.SIGKILL: "the machine ran out of memory",
    OVER_TIME: "the base's chat template computes without end. Do not use this base, or mend its template",
}
_OWN_KEYS = ("FT_PIPELINE_ALERT_", "DAGSTER_PG_URL")


@dataclass(frozen=True)
class StageResult:
    """What came back from a stage's process."""

    summary: Summary
    peak_rss_bytes: int


def run_stage(
    function: str,
    request: BaseModel,
    *,
    reporter: Reporter,
    log_path: Path,
    lock: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> StageResult:
    """Run a stage in a child process and wait for it.

    An exception here (Dagster's interrupt, Ctrl-C) goes to the child's whole process group first: SIGTERM, then SIGKILL
    after `GRACE_SECONDS`.

    Args:
        function: The stage's function as `module:name`; it takes the request and a `Reporter` and returns a `Summary`.
        request: What the function is given; sent as JSON.
        reporter: Where the child's words and figures go.
        log_path: File for what the child's libraries print.
        lock: An open file whose lock the child holds too: it stays locked until the child has ended, should this
            process be killed before.
        environment: Variables set for the child on top of this process's.

    Raises:
        PipelineError: what the stage raised.
        StageProcessError: the process crashed or was killed; the message holds the end of the log.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    request_name = f"{type(request).__module__}:{type(request).__qualname__}"
    read_end, write_end = os.pipe()
    log_path.write_bytes(b"")
    with log_path.open("ab") as log, os.fdopen(read_end, "rb") as events:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "ft_pipeline.processes.child", function, request_name, str(write_end)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(write_end,) if lock is None else (write_end, lock),
                start_new_session=True,
                env=_without_own_keys() | dict(environment or {}),
            )
        finally:
            os.close(write_end)
        try:
            outcome = _talk(process, request, _read_events(process, events, log_path), reporter)
            process.wait()
        except BaseException:
            _ask_to_stop(process)
            raise
        finally:
            _kill_group(process)
    return _judge(function.partition(":")[2], process.returncode, outcome, log_path)


def _without_own_keys() -> dict[str, str]:
    """This process's variables but for keys that are no stage's business: who is told of runs, Dagster's database."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OWN_KEYS)}


def _talk(
    process: subprocess.Popen[bytes], request: BaseModel, events: Iterator[dict[str, Any]], reporter: Reporter
) -> Any:
    assert process.stdin is not None  # noqa: S101 - Popen was given a pipe
    try:
        process.stdin.write(request.model_dump_json().encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    for event in events:
        match event["event"]:
            case "info":
                reporter.info(event["message"])
            case "warning":
                reporter.warning(event["message"])
            case "progress":
                reporter.progress(event["done"], event["total"], **event["figures"])
            case _:
                return event  # nothing comes after it, though a process that the stage forked may hold the pipe open
    return None


def _read_events(process: subprocess.Popen[bytes], events: IO[bytes], log_path: Path) -> Iterator[dict[str, Any]]:
    """Events until the pipe ends, or until the process is dead: one that it forked may hold the pipe open for long."""
    rest = b""
    while True:
        cut_log(log_path)
        is_dead = process.poll() is not None
        if not select.select([events], [], [], 0 if is_dead else _POLL_SECONDS)[0]:
            if is_dead:
                return
            continue
        read = os.read(events.fileno(), 1 << 16)
        if not read:
            return
        *lines, rest = (rest + read).split(b"\n")  # a process that is killed may leave half a line
        yield from map(json.loads, lines)


def _ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the group: a stage that ignores SIGTERM, or processes that it started and left behind."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin:
        with suppress(BrokenPipeError):
            process.stdin.close()


def _judge(stage: str, status: int, outcome: Any, log_path: Path) -> StageResult:
    kind = outcome["event"] if outcome else "none"
    if kind == "result":
        return StageResult(Summary.model_validate(outcome["summary"]), outcome["peak_rss_bytes"])
    if kind == "error":
        raise error_class(outcome["type"])(outcome["message"])
    if kind == "crash":
        with log_path.open("a", encoding="utf-8") as log:
            log.write(hide_credentials(outcome["traceback"]))
        said = hide_credentials(outcome["message"])
        raise StageProcessError(f"the {stage} process failed: {said}. Its log: {log_path}")
    end = hide_credentials(_tail(log_path))
    raise StageProcessError(f"the {stage} process {_describe_death(status)}. The end of its log, {log_path}:\n{end}")


def _describe_death(status: int) -> str:
    if status >= 0:
        return f"ended without a result (exit status {status})"
    found = signal.Signals(-status)
    reason = _DEATHS.get(found)
    return f"was killed by {found.name}" + (f": most likely {reason}" if reason else "")


def _tail(log_path: Path) -> str:
    with log_path.open(encoding="utf-8", errors="replace") as log:
        return "".join(deque(log, maxlen=_TAIL_LINES))
