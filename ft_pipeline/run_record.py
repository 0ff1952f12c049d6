"""What is written down of runs, in the artifact store.

<store>/_runs/<run id>.json      what the run began with, and the artifacts that it has asked for
<store>/_runs/<run id>.lock      held while a process of the run lives
<store>/_runs/generations.json   how often an artifact was built anew by force
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ft_pipeline.base_model import BaseModel as Base
from ft_pipeline.durable import write_file
from ft_pipeline.errors import ArtifactError
from ft_pipeline.file_lock import lock_file, try_lock
from ft_pipeline.recipe import Recipe


class RunRecord(BaseModel):
    """What a run began with, and what it has asked for so far.

    Attributes:
        data: Set and SHA-256 of every source file.
        generations: How often an artifact was built anew by force, by the fingerprint that it has without that.
        artifacts: Asset and fingerprint of all that the run has built, reused or read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    data: tuple[tuple[str, str], ...]
    base: Base
    generations: dict[str, int]
    began_at: datetime
    artifacts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class PastRun:
    """A run on record; `is_live` says that a process of it still lives."""

    id: str
    record: RunRecord
    is_live: bool


class RunFolder:
    """The records of all runs on a store.

    Args:
        store_root: The artifact store's folder.
    """

    def __init__(self, store_root: Path) -> None:
        self._folder = store_root / "_runs"

    def read(self, run_id: str) -> RunRecord | None:
        """The record of a run; None if there is none, or one of another version of this package."""
        try:
            return RunRecord.model_validate_json(self._path(run_id, "json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def write(self, run_id: str, record: RunRecord) -> None:
        """Replace the record of a run at once."""
        write_file(self._path(run_id, "json"), record.model_dump_json(indent=1))

    def hold(self, run_id: str) -> int:
        """Say that this process works for a run, until the descriptor that it returns is closed or the process dies."""
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = self._open_lock(run_id)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor

    def list_runs(self) -> Iterator[PastRun]:
        """All runs on record, newest first."""
        ids = [path.stem for path in self._folder.glob("*.json") if path.name != "generations.json"]
        records = [(run_id, record) for run_id in ids if (record := self.read(run_id))]
        for run_id, record in sorted(records, key=lambda entry: entry[1].began_at, reverse=True):
            yield PastRun(run_id, record, self._is_live(run_id))

    def forget(self, run_id: str) -> None:
        """Remove the record of a run that has ended."""
        for suffix in ("json", "lock"):
            self._path(run_id, suffix).unlink(missing_ok=True)

    def guard(self) -> AbstractContextManager[None]:
        """Held by who writes down what a run needs, and by who removes what no run needs."""
        return lock_file(self._folder / ".retention.lock")

    def generations(self) -> dict[str, int]:
        """How often each artifact was built anew by force."""
        try:
            found: dict[str, int] = json.loads((self._folder / "generations.json").read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def settle(self, plain: str, generation: int) -> None:
        """Later runs take this generation of an artifact."""
        with lock_file(self._folder / ".generations.lock"):
            known = self.generations()
            known[plain] = max(known.get(plain, 0), generation)
            write_file(self._folder / "generations.json", json.dumps(known, sort_keys=True))

    def _is_live(self, run_id: str) -> bool:
        descriptor = self._open_lock(run_id)
        try:
            return not try_lock(descriptor)
        finally:
            os.close(descriptor)

    def _open_lock(self, run_id: str) -> int:
        return os.open(self._path(run_id, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)

    def _path(self, run_id: str, suffix: str) -> Path:
        if not run_id.replace("-", "").isalnum():
            raise ArtifactError(f"the id of a run must be letters, digits and dashes, got {run_id!r}")
        return self._folder / f"{run_id}.{suffix}"
