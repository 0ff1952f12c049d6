"""Which of an orchestrator's runs, and of the words of their processes, are old enough to go."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

# How the names of Dagster's logs end.
_DAGSTERS = frozenset({".out", ".err", ".complete", ".partial"})


@dataclass(frozen=True)
class FinishedRun:
    """A run that is over."""

    id: str
    ended_at: datetime


@dataclass(frozen=True)
class Rule:
    """What stays of a history: all of the last days, the last runs whatever their age, and those on record in a store.

    Attributes:
        now: The time that days are counted from.
        days: Days.
        last: Runs.
    """

    now: datetime
    days: int
    last: int

    @property
    def oldest(self) -> datetime:
        """What is older may go."""
        return self.now - timedelta(days=self.days)


def find_expired_runs(ended: Iterable[FinishedRun], recorded: Collection[str], rule: Rule) -> list[str]:
    """Ids of the runs that go.

    Args:
        ended: All runs that are over.
        recorded: Runs of which a store still has a record, and so something that they made.
        rule: What stays.
    """
    older = sorted(ended, key=lambda run: run.ended_at, reverse=True)[rule.last :]
    return [run.id for run in older if run.ended_at < rule.oldest and run.id not in recorded]


def find_old_logs(folder: Path, kept_runs: Collection[str], rule: Rule) -> list[Path]:
    """Files below a folder of logs that are older than the rule's days, and not in the folder of a run that stays."""
    found = []
    for path in sorted(folder.rglob("*")):
        with suppress(FileNotFoundError):
            is_old = path.suffix in _DAGSTERS and path.lstat().st_mtime < rule.oldest.timestamp()
            if is_old and not path.is_dir() and path.relative_to(folder).parts[0] not in kept_runs:
                found.append(path)
    return found


def remove_logs(folder: Path, files: Iterable[Path]) -> None:
    """Remove files below a folder, and the folders that are empty then."""
    for path in files:
        path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent == folder:
                break
            with suppress(OSError):  # it holds something else
                parent.rmdir()
