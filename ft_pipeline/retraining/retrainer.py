"""Looks at a recipe's data and says whether a run is due; and the book-keeping for it, which the runs do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from ft_pipeline.datasets.sources import TRAINING_SET, SourceFile
from ft_pipeline.errors import SourceError
from ft_pipeline.recipe import Recipe
from ft_pipeline.retraining.arrivals import Arrivals, find_arrivals
from ft_pipeline.retraining.content import Content, ContentFolder
from ft_pipeline.retraining.decision import Rest, Situation, StartedRun, decide
from ft_pipeline.retraining.ledger import Ledger, hash_contract
from ft_pipeline.retraining.rows import RowFolder, count_new
from ft_pipeline.run_record import RunFolder

# Contents that a queued run may still be told to take.
_CONTENTS_KEPT = 20


@dataclass(frozen=True)
class Due:
    """A run that is to be started.

    Attributes:
        data: Digest of the content that it shall train on.
        contract: Hash of the recipe's words on the data.
        attempt: As of `decision.Start`.
    """

    data: str
    contract: str
    attempt: int
    reason: str


class Retrainer:
    """Retraining of one recipe.

    Args:
        recipe: The recipe as it is now.
        root: The project's folder.
        store_root: The artifact store's folder.
    """

    def __init__(self, recipe: Recipe, root: Path, store_root: Path) -> None:
        self._recipe = recipe
        self._root = root
        self._store_root = store_root
        self._rows = RowFolder(store_root, recipe.name)
        self._contents = ContentFolder(store_root, recipe.name)
        self._ledger = Ledger(store_root, recipe.name)

    def look(self, started: Sequence[StartedRun], now: datetime, *, is_patient: bool = True) -> Due | Rest:
        """Whether a run is due now, and on which data.

        Args:
            started: What retraining has started, oldest first.
            is_patient: Files that are on their way are waited for; else the others are taken now.

        Raises:
            ArtifactError: the ledger, or the content that was trained on last, does not read.
            DiskSpaceError: there is no room for a copy of what lies elsewhere.
        """
        try:
            arrivals = find_arrivals(self._recipe, self._root, self._store_root, now.timestamp(), is_patient=is_patient)
        except SourceError as err:
            return Rest(f"the data cannot be looked at: {err}")
        content, book = Content.of(arrivals.files), self._ledger.read()
        last = book.last_trained
        before = self._contents.find(last.data) if last else None
        live, contract = self._find_live(), hash_contract(self._recipe.dataset)
        situation = Situation(
            now=now,
            arrivals=arrivals,
            data=content.digest,
            contract=contract,
            book=book,
            started=started,
            live=live,
            is_cut=bool(before and before.all_files - content.all_files),
            count_new_rows=lambda: self._count_new_rows(arrivals.files, before),
            waited=_find_waited(arrivals, before, now),
            is_patient=is_patient,
        )
        decision = decide(situation, self._recipe.retraining)
        if isinstance(decision, Rest):
            return decision
        self._contents.write(content)
        self._rows.keep_only(content.all_files | (before.all_files if before else set()))
        waiting = [run.data for run in started[-_CONTENTS_KEPT:]]
        self._contents.keep_only([content.digest, *([last.data] if last else []), *waiting, *live])
        return Due(content.digest, contract, decision.attempt, decision.reason)

    def _find_live(self) -> dict[str, str]:
        runs = RunFolder(self._store_root)
        found = ((run_id, runs.read(run_id)) for run_id in runs.list_live(self._recipe.name))
        return {record.data_digest: run_id for run_id, record in found if record}

    def _count_new_rows(self, files: Sequence[SourceFile], before: Content | None) -> int:
        """Rows of a file that is gone and that no look has seen are not known, and count as never trained on."""
        old = before.training_files if before else set()
        now = {file.rows_key: file for file in files if file.set == TRAINING_SET}
        found = [self._rows.read(now[rows_key]) for rows_key in now.keys() - old]
        known = [rows for rows_key in old if (rows := self._rows.find(rows_key))]
        return count_new([rows.hashes for rows in found], [rows.hashes for rows in known])


def _find_waited(arrivals: Arrivals, before: Content | None, now: datetime) -> timedelta:
    """For how long the oldest file has been there that was not trained on."""
    known = {(file.set, file.rows_key) for file in before.files} if before else set()
    files = zip(arrivals.files, arrivals.changed_at, strict=True)
    times = [at for file, at in files if (file.set, file.rows_key) not in known]
    return timedelta(seconds=abs(now.timestamp() - min(times))) if times else timedelta()
