"""What became of each content that a recipe was trained on, whoever started the run.

<store>/_retraining/<recipe>/ledger.json
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ft_pipeline.datasets.sources import without_credentials
from ft_pipeline.durable import write_file
from ft_pipeline.errors import ArtifactError
from ft_pipeline.file_lock import lock_file
from ft_pipeline.fingerprint import fingerprint
from ft_pipeline.recipe import DatasetSection
from ft_pipeline.retraining.folder import recipe_folder, told_of_folder
from ft_pipeline.stored_format import StoredFormat

_BOOK = StoredFormat()
_KEPT = 1000
Outcome = Literal["published", "kept", "stopped", "refused"]


class Judged(BaseModel):
    """A content that a run came to a verdict on.

    Attributes:
        data: The content's digest.
        outcome: published: its model is the champion. kept: the champion before stays. stopped: a limit of the gate is
            broken. refused: the data breaks its contract, nothing was trained.
        validated: Fingerprint of the validated data set.
        contract: Hash of the recipe's words on the data, by which it was refused.
        began_at: When the run began.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    outcome: Outcome
    run: str
    validated: str
    contract: str
    began_at: datetime
    at: datetime

    @property
    def was_trained(self) -> bool:
        """Whether a model came of it."""
        return self.outcome != "refused"


class Book(BaseModel):
    """All that was judged, oldest first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    judged: tuple[Judged, ...] = ()

    def find(self, data: str, contract: str) -> Judged | None:
        """The last verdict on a content that holds under a recipe's words on the data."""
        holding = (entry for entry in reversed(self.judged) if entry.was_trained or entry.contract == contract)
        return next((entry for entry in holding if entry.data == data), None)

    @property
    def last_trained(self) -> Judged | None:
        """The last one that a model came of."""
        return next((entry for entry in reversed(self.judged) if entry.was_trained), None)

    def before(self, data: str) -> Judged | None:
        """What was trained on last when this content came: the same however often it is asked."""
        trained = [entry for entry in self.judged if entry.was_trained]
        first = next((place for place, entry in enumerate(trained) if entry.data == data), len(trained))
        return trained[first - 1] if first else None


class Ledger:
    """The book of one recipe.

    Args:
        store_root: The artifact store's folder.
        recipe_name: The recipe's.
    """

    def __init__(self, store_root: Path, recipe_name: str) -> None:
        self._path = recipe_folder(store_root, recipe_name) / "ledger.json"

    def read(self) -> Book:
        """All that was judged.

        Raises:
            NewerFormat: a newer version has written it.
            ArtifactError: it does not read.
            ResourceError: as of `told_of_folder`.
        """
        with told_of_folder(self._path):
            try:
                return _BOOK.read(self._path, Book)
            except FileNotFoundError:
                return Book()
            except ValueError as err:
                raise ArtifactError(
                    f"{self._path} does not read. Restore it from a backup, or remove it: then the data that is there "
                    "now counts as new and is trained on once more."
                ) from err

    def add(self, entry: Judged) -> None:
        """Write a verdict down, once for a run.

        Raises:
            ArtifactError, ResourceError: as of `read`.
        """
        with told_of_folder(self._path), lock_file(self._path.with_name(".ledger.lock")):
            book = self.read()
            if any((known.run, known.data, known.outcome) == (entry.run, entry.data, entry.outcome)
                   for known in book.judged):  # fmt: skip
                return
            judged = (*book.judged, entry)[-_KEPT:]
            write_file(self._path, book.model_copy(update={"judged": judged}).model_dump_json(indent=1))


def hash_contract(dataset: DatasetSection) -> str:
    """Identifies what the recipe says of the data, keys in its URLs aside: under other words it may be taken."""
    return fingerprint({"dataset": without_credentials(dataset)})
