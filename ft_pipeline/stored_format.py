"""Files that are read by later versions than the one that wrote them.

A file says its format in its field `format`; one without that field is of format 0. An older one is read as if it were
of the present format, and stays as it is on the disk. A newer one is refused: who does not know what it says must
neither build over it nor remove it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from ft_pipeline.errors import NewerFormat

FIELD = "format"
Fields = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)


class StoredFormat:
    """The formats of one kind of file.

    Args:
        upgrades: What makes a file of each format, from `oldest` on, one of the next.
        oldest: The first format that is read.
    """

    def __init__(self, upgrades: Sequence[Callable[[Fields], Fields]] = (), *, oldest: int = 1) -> None:
        self._upgrades = tuple(upgrades)
        self._oldest = oldest

    @property
    def present(self) -> int:
        """The format that is written."""
        return self._oldest + len(self._upgrades)

    def read(self, path: Path, model: type[Model]) -> Model:
        """What a file says, in the present format.

        Raises:
            NewerFormat: a newer version has written it.
            ValueError: it does not read (pydantic's `ValidationError` is one).
            OSError: it cannot be read.
        """
        text = path.read_bytes()
        try:
            fields = json.loads(text)
        except RecursionError as err:
            raise ValueError("it is nested without end") from err
        if not isinstance(fields, dict):
            return model.model_validate_json(text)
        found = fields.get(FIELD, 0)
        require_known(path, found, self.present)
        # Of what is no format at all the model says what is wrong.
        if not isinstance(found, int) or not self._oldest <= found < self.present:
            return model.model_validate_json(text)
        for upgrade in self._upgrades[found - self._oldest :]:
            fields = upgrade(fields)
        return model.model_validate_json(json.dumps(fields | {FIELD: self.present}))


def require_known(path: Path, found: Any, present: int) -> None:
    """Raise `NewerFormat` if a file's format is above the present one."""
    if isinstance(found, int) and found > present:
        raise NewerFormat(
            f"{path} has format {found}, and this version reads up to {present}: it was written by a newer version of "
            "ft_pipeline, and is left as it is. Update ft_pipeline to that version."
        )
