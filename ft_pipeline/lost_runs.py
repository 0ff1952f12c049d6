"""Runs that a scheduler takes for running, and of which no process lives any more.

A process that is killed cannot say that its run has ended, so the run would keep its place, and others queued behind
it, for ever. Every process of a run holds a lock in the store (`run_record.py`), which is gone with it. Nothing here
goes by a clock, which may jump: a run is lost when it was found without a process, and its log no longer than before,
at several looks in a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.run_record import RunFolder

# Between two steps in processes of their own nobody holds the lock for some seconds.
LOOKS = 3


@dataclass(frozen=True)
class RunningRun:
    """A run that is on record as running.

    Attributes:
        store_root: The artifact store that it works on.
        log_length: Any number that grows with its log.
    """

    id: str
    store_root: Path
    log_length: int


@dataclass(frozen=True)
class Look:
    """What one look at all runs has found.

    Attributes:
        lost: Ids of runs to be ended.
        memory: To be handed to the next look.
    """

    lost: tuple[str, ...]
    memory: str


def look_for_lost(runs: Iterable[RunningRun], memory: str | None) -> Look:
    """Look once.

    A run that has no lock in its store is not judged: it has not begun here, or is another machine's.

    Args:
        runs: All that are on record as running.
        memory: Of the look before; None: there was none.
    """
    before = _read(memory)
    seen: dict[str, list[int]] = {}
    for run in runs:
        if RunFolder(run.store_root).is_left(run.id):
            looks, log_length = before.get(run.id, (0, run.log_length))
            seen[run.id] = [looks + 1 if log_length == run.log_length else 1, run.log_length]
    lost = tuple(run_id for run_id, (looks, _) in seen.items() if looks >= LOOKS)
    return Look(lost, json.dumps(seen))


def _read(memory: str | None) -> Mapping[str, tuple[int, int]]:
    try:
        return {run_id: (int(looks), int(length)) for run_id, (looks, length) in json.loads(memory or "{}").items()}
    except (ValueError, TypeError, AttributeError):  # another version's: looked at anew
        return {}
