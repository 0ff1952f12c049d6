"""One run of a recipe: its inputs as they were when it began, so that all its stages see the same.

A recipe, a file of data or a local base that is edited while a run goes on belongs to the next run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from ft_pipeline import environment
from ft_pipeline.artifact import ArtifactKey
from ft_pipeline.base_model import BaseModel, open_base, require_context, require_vocabulary
from ft_pipeline.datasets.sources import TRAINING_SET, SourceFile, raise_faults, search_sources, without_credentials
from ft_pipeline.evaluation.own_files import find_metric_files, find_task_files
from ft_pipeline.evaluation.request import Opponents, OwnFile
from ft_pipeline.lineage import Lineage, in_generation, plain_fingerprint
from ft_pipeline.recipe import Recipe
from ft_pipeline.retraining.content import Content, ContentFolder
from ft_pipeline.retraining.ledger import Judged, Ledger, Outcome, hash_contract
from ft_pipeline.retraining.rows import RowFolder
from ft_pipeline.run_record import RunFolder, RunRecord


class Run:
    """The pinned inputs of one run.

    Args:
        load: Gives the recipe as it is now; asked only while the run is not on record.
        root: The project's folder; the recipe's paths are relative to it.
        store_root: The artifact store's folder.
        ids: This run and those that it continues, nearest first. Empty: look only, nothing is written down.
        data: Digest of the content that the run was started for; empty: all data that is there.
        is_trial: It does not count for retraining: fields of the recipe were changed for it.
    """

    def __init__(
        self,
        load: Callable[[], Recipe],
        root: Path,
        store_root: Path,
        ids: Sequence[str] = (),
        data: str = "",
        *,
        is_trial: bool = False,
    ) -> None:
        self.root = root
        self.store_root = store_root
        self._downloads = store_root / "_downloads"
        self.verified: set[tuple[Path, int]] = set()
        self._load = load
        self._ids = tuple(ids)
        self._data = data
        self._is_trial = is_trial
        self._folder = RunFolder(store_root)
        self._written: RunRecord | None = None
        self._continues: str | None = None
        self._lock: int | None = None

    @property
    def id(self) -> str:
        """The run's id, for people."""
        return self._ids[0] if self._ids else "none"

    @property
    def recipe(self) -> Recipe:
        """The recipe as it was when the run began."""
        return self._record.recipe

    @property
    def lineage(self) -> Lineage:
        """The keys of all that this run makes."""
        record = self._record
        return Lineage(record.recipe, record.data, record.base.identity, record.generations, record.older)

    @property
    def base(self) -> BaseModel:
        """The base; it must still be what it was when the run began."""
        record = self._record
        base = open_base(record.recipe.base_model, self.root, pinned=record.base)
        if base != record.base:  # touched, its bytes the same
            self._write(record.model_copy(update={"base": base}))
        return base

    @property
    def opponents(self) -> Opponents | None:
        """What the run's challenger was scored against, if it was."""
        return self._record.opponents

    @property
    def older(self) -> str | None:
        """The validated data set that was trained on before, where only a share of its rows is trained on again."""
        return self._record.older

    @property
    def metric_files(self) -> tuple[OwnFile, ...]:
        """The user's metrics as they were when the run began."""
        return self._record.metric_files

    @property
    def task_files(self) -> tuple[OwnFile, ...]:
        """The user's tasks for lm-evaluation-harness as they were when the run began."""
        return self._record.task_files

    @property
    def continues(self) -> str | None:
        """The run whose inputs this one goes on with."""
        if self._written is None:
            self._resume()
        return self._continues

    def pin(self) -> tuple[SourceFile, ...]:
        """Begin with the recipe, the data and the base as they are now.

        Returns:
            The data.
        """
        recipe = self._load()
        base = open_base(recipe.base_model, self.root)
        require_context(base, recipe.dataset.max_row_tokens)
        require_vocabulary(base)
        contents, looked_at = ContentFolder(self.store_root, recipe.name), time.time()
        wanted = contents.read(self._data) if self._data else None
        found = search_sources(recipe.dataset, self.root, self._downloads, own=environment.own_folders(self.store_root))
        if wanted:
            sources = wanted.take(found)
        else:
            raise_faults(found.faults)
            sources = found.files
        content = wanted or Content.of(sources)
        if self._ids:
            contents.write(content)
            if "retraining" in recipe.model_fields_set:
                self._remember_rows(recipe.name, sources, looked_at)
        record = RunRecord(
            # No later stage of the run asks for the sources again.
            recipe=recipe.model_copy(update={"dataset": without_credentials(recipe.dataset)}),
            data=tuple(source.key for source in sources),
            base=base,
            generations=self._folder.generations(),
            began_at=self._folder.next_moment(),
            metric_files=find_metric_files(recipe.evaluation, self.root),
            task_files=find_task_files(recipe.evaluation.harness, self.root),
            older=self._find_older(recipe, content),
        )
        self._write(record)
        return sources

    def _remember_rows(self, recipe_name: str, sources: Sequence[SourceFile], looked_at: float) -> None:
        """What comes later is counted against these rows, also where they change before any look for new data."""
        folder = RowFolder(self.store_root, recipe_name)

        def is_same(path: Path) -> bool:  # a copy of what lies elsewhere is never changed
            return path.is_relative_to(self._downloads) or path.stat().st_ctime < looked_at

        for source in sources:
            if source.set == TRAINING_SET:
                with suppress(OSError):  # the stage that reads it says what is wrong
                    folder.read(source, partial(is_same, source.path))

    def judge(self, outcome: Outcome, validated: str) -> None:
        """Write down what became of the run's data: it is not trained on again by itself."""
        if not self._ids or self._is_trial:
            return
        record = self._record
        Ledger(self.store_root, record.recipe.name).add(
            Judged(
                data=record.data_digest,
                outcome=outcome,
                run=self.id,
                validated=validated,
                contract=hash_contract(record.recipe.dataset),
                began_at=record.began_at,
                at=datetime.now(UTC),
            )
        )

    def meet(self, opponents: Opponents) -> None:
        """Write down what the challenger is scored against."""
        self._write(self._record.model_copy(update={"opponents": opponents}))

    def need(self, asset: str, fingerprint: str) -> None:
        """Write down that the run needs an artifact, before it looks for it: retention leaves it alone from then on."""
        record, entry = self._record, (asset, fingerprint)
        if not self._ids or entry in record.artifacts:
            return
        with self._folder.guard():
            self._write(record.model_copy(update={"artifacts": (*record.artifacts, entry)}))

    def renew(self, key: ArtifactKey) -> ArtifactKey:
        """A new key for what is to be built anew; all that is made from it gets new ones too.

        What was there keeps its own, so a champion is not touched before the gate has seen what replaces it.
        """
        record, plain = self._record, plain_fingerprint(key)
        known = self._folder.generations().get(plain, 0)
        generation = max(record.generations.get(plain, 0), known + 1)
        self._write(record.model_copy(update={"generations": {**record.generations, plain: generation}}))
        return in_generation(key, generation)

    def settle(self, key: ArtifactKey) -> None:
        """What was renewed is built: later runs take it."""
        plain = plain_fingerprint(key)
        if generation := self._record.generations.get(plain):
            self._folder.settle(plain, generation)

    def previous_of(self, asset: str, fingerprint: str) -> str | None:
        """The artifact of this asset that the newest earlier run of the recipe has asked for, if it was another one."""
        for run in self._folder.list_runs():
            if run.id == self.id or run.record.recipe.name != self.recipe.name:
                continue
            for entry_asset, entry in run.record.artifacts:
                if entry_asset == asset and entry != fingerprint and self._exists(asset, entry):
                    return entry
        return None

    def _find_older(self, recipe: Recipe, content: Content) -> str | None:
        if recipe.retraining.replay_share == 1:
            return None
        before = Ledger(self.store_root, recipe.name).read().before(content.digest)
        return before.validated if before and self._exists("validated_dataset", before.validated) else None

    def _exists(self, asset: str, fingerprint: str) -> bool:
        return (self.store_root / asset / fingerprint).is_dir()

    def hold(self) -> None:
        """Say that this process works for the run, until it closes it or dies."""
        if self._ids and self._lock is None:
            self._lock = self._folder.hold(self.id)

    def close(self) -> None:
        """This process has no more to do for the run."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def _record(self) -> RunRecord:
        if self._written is None and not self._resume():
            self.pin()
        assert self._written is not None  # noqa: S101 - both branches write
        return self._written

    def _resume(self) -> bool:
        """Go on with the inputs of this run, or of the nearest one that it continues, if one is on record."""
        for run_id in self._ids:
            if found := self._folder.read(run_id):
                if run_id != self.id:
                    self._continues = run_id
                    found = found.model_copy(update={"artifacts": (), "began_at": self._folder.next_moment()})
                self._write(found)
                return True
        return False

    def _write(self, record: RunRecord) -> None:
        if self._ids:
            self.hold()
            self._folder.write(self.id, record)
        self._written = record
