"""What is written down of runs, in the artifact store.

<store>/_runs/<run id>.json      what the run began with, and the artifacts that it has asked for
<store>/_runs/<run id>.lock      held while a process of the run lives
<store>/_runs/generations.json   how often an artifact was built anew by force

A run is continued from its whole record, which only a version that knows the same recipe's fields reads. What retention
asks of it, its outline, is read from records of all earlier versions.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidatorFunctionWrapHandler, field_validator

from ft_pipeline.base_model import BaseModel as Base
from ft_pipeline.disk_space import told_of_disk
from ft_pipeline.durable import write_file
from ft_pipeline.errors import ArtifactError, NewerFormat
from ft_pipeline.evaluation.request import Opponents, OwnFile
from ft_pipeline.file_lock import lock_file, try_lock
from ft_pipeline.recipe import Recipe, RetentionSection
from ft_pipeline.retraining.content import digest_of
from ft_pipeline.stored_format import StoredFormat

_RECORD = StoredFormat([lambda fields: fields], oldest=0)  # 0 had no field for it
_GENERATIONS = StoredFormat([lambda fields: {"generations": fields}], oldest=0)  # 0 was the bare table


class RecipeOutline(BaseModel):
    """Of a run's recipe what retention asks; what a later version has dropped of it is taken as it is today."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    retention: RetentionSection = RetentionSection()

    @field_validator("retention", mode="wrap")
    @classmethod
    def _read_retention(cls, value: Any, read: ValidatorFunctionWrapHandler) -> Any:
        known = RetentionSection.model_fields
        return read({name: value[name] for name in known if name in value} if isinstance(value, dict) else value)


class RunOutline(BaseModel):
    """Of a run's record what holds for every version that wrote it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    recipe: RecipeOutline
    began_at: datetime
    artifacts: tuple[tuple[str, str], ...] = ()


class RunRecord(BaseModel):
    """What a run began with, and what it has asked for so far.

    Attributes:
        format: Of the file.
        began_at: Later than that of any run before it (`RunFolder.next_moment`).
        data: Set, SHA-256 and layout of every source file.
        older: Fingerprint of the validated data set that was trained on before this one, where the recipe trains on a
            share of its rows only.
        generations: How often an artifact was built anew by force, by the fingerprint that it has without that.
        artifacts: Asset and fingerprint of all that the run has built, reused or read.
        opponents: What its challenger was scored against.
        metric_files: The user's metrics.
        task_files: The user's tasks for lm-evaluation-harness.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    recipe: Recipe
    data: tuple[tuple[str, str, str], ...]
    base: Base
    generations: dict[str, int]
    began_at: datetime
    artifacts: tuple[tuple[str, str], ...] = ()
    opponents: Opponents | None = None
    metric_files: tuple[OwnFile, ...] = ()
    task_files: tuple[OwnFile, ...] = ()
    older: str | None = None

    @property
    def data_digest(self) -> str:
        """Identifies the data."""
        return digest_of(self.data)


@dataclass(frozen=True)
class PastRun:
    """A run on record; `is_live` says that a process of it still lives."""

    id: str
    record: RunOutline
    is_live: bool


_Record = TypeVar("_Record", RunRecord, RunOutline)


class _Generations(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    generations: dict[str, int] = {}


class RunFolder:
    """The records of all runs on a store.

    Args:
        store_root: The artifact store's folder.
    """

    def __init__(self, store_root: Path) -> None:
        self._folder = store_root / "_runs"
        self._generations = self._folder / "generations.json"

    def read(self, run_id: str) -> RunRecord | None:
        """The record of a run; None if there is none.

        Raises:
            NewerFormat: a newer version has written it.
            ArtifactError: it does not read.
        """
        return self._read(run_id, RunRecord)

    def _read(self, run_id: str, model: type[_Record]) -> _Record | None:
        path = self._path(run_id, "json")
        try:
            return _RECORD.read(path, model)
        except FileNotFoundError:
            return None
        except ValueError as err:
            raise ArtifactError(
                f"{path} is no record of a run that this version reads. Start a new run instead of continuing that "
                "one; if it has ended, remove the file."
            ) from err

    def write(self, run_id: str, record: RunRecord) -> None:
        """Replace the record of a run at once."""
        with told_of_disk():
            # Credentials in URLs are `***` already; what else a recipe names is its owner's matter too.
            self._folder.mkdir(parents=True, exist_ok=True)
            self._folder.chmod(0o700)
            write_file(self._path(run_id, "json"), record.model_dump_json(indent=1))

    def hold(self, run_id: str) -> int:
        """Say that this process works for a run, until the descriptor that it returns is closed or the process dies."""
        with told_of_disk():
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = self._open_lock(run_id)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor

    def is_left(self, run_id: str) -> bool:
        """Whether processes have worked for a run here, and none of them lives; False where nobody can tell."""
        try:
            return self._path(run_id, "lock").exists() and not self._is_live(run_id)
        except OSError:  # another user's store, or a disk that is read-only
            return False

    def list_runs(self) -> Iterator[PastRun]:
        """All runs on record, newest first.

        Raises:
            NewerFormat: a newer version has written one.
            ArtifactError: the record of a live run does not read; that of one that has ended is left out.
        """
        found = []
        for run_id in self._list_ids():
            is_live = self._is_live(run_id)
            try:
                record = self._read(run_id, RunOutline)
            except NewerFormat:
                raise
            except ArtifactError:
                if is_live:
                    raise
                continue
            if record:
                found.append(PastRun(run_id, record, is_live))
        yield from sorted(found, key=lambda run: run.record.began_at, reverse=True)

    def list_live(self, recipe_name: str) -> Iterator[str]:
        """Ids of a recipe's runs of which a process lives; the records of the others are not read."""
        for path in self._folder.glob("*.lock"):
            if _is_id(path.stem) and self._is_live(path.stem):
                outline = self._read(path.stem, RunOutline)
                if outline and outline.recipe.name == recipe_name:
                    yield path.stem

    def next_moment(self) -> datetime:
        """When a run that begins now begins: after all that are on record, however the clock was set since."""
        known = [datetime.now(UTC)]
        for run_id in self._list_ids():
            with suppress(ArtifactError):  # one that does not read is in nobody's way here
                if record := self._read(run_id, RunOutline):
                    known.append(record.began_at + timedelta(microseconds=1))
        return max(known)

    def forget(self, run_id: str) -> None:
        """Remove the record of a run that has ended."""
        for suffix in ("json", "lock"):
            self._path(run_id, suffix).unlink(missing_ok=True)

    def guard(self) -> AbstractContextManager[int]:
        """Held by who writes down what a run needs, and by who removes what no run needs."""
        return lock_file(self._folder / ".retention.lock")

    def generations(self) -> dict[str, int]:
        """How often each artifact was built anew by force."""
        try:
            return _GENERATIONS.read(self._generations, _Generations).generations
        except FileNotFoundError:
            return {}
        except ValueError as err:
            raise ArtifactError(f"{self._generations} does not read: {err}. Restore it, or remove it.") from err

    def settle(self, plain: str, generation: int) -> None:
        """Later runs take this generation of an artifact."""
        with told_of_disk(), lock_file(self._folder / ".generations.lock"):
            known = self.generations()
            known[plain] = max(known.get(plain, 0), generation)
            write_file(self._generations, _Generations(generations=dict(sorted(known.items()))).model_dump_json())

    def _list_ids(self) -> Iterator[str]:
        """Ids of the runs on record."""
        for path in self._folder.glob("*.json"):
            if path != self._generations and _is_id(path.stem):
                yield path.stem

    def _is_live(self, run_id: str) -> bool:
        descriptor = self._open_lock(run_id)
        try:
            return not try_lock(descriptor)
        finally:
            os.close(descriptor)

    def _open_lock(self, run_id: str) -> int:
        return os.open(self._path(run_id, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)

    def _path(self, run_id: str, suffix: str) -> Path:
        if not _is_id(run_id):
            raise ArtifactError(f"the id of a run must be letters, digits and dashes, got {run_id!r}")
        return self._folder / f"{run_id}.{suffix}"


def _is_id(text: str) -> bool:
    return text.isascii() and text.replace("-", "").isalnum()
