"""The table of a backup: what it holds, and where it may.

A backup can be of anybody, and what its table names is moved into the store. So each file is one of an artifact, or a
record, and its name leads nowhere else.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator

from ft_pipeline.artifact import FileRecord
from ft_pipeline.containment import is_below
from ft_pipeline.listing import name_some
from ft_pipeline.store_names import ASSET_FORM, FINGERPRINT_FORM
from ft_pipeline.stored_format import StoredFormat

CONTENTS = "backup.json"
RECORDS = ("_aliases", "_runs", "_traces", "_retraining")
_IN_A_STORE = re.compile(rf"{ASSET_FORM}/{FINGERPRINT_FORM}/.+|({'|'.join(RECORDS)})/(.+/)?[^./][^/]*\.json", re.DOTALL)
_SHOWN_NAMES = 3
CONTENTS_FORMAT = StoredFormat()


class Contents(BaseModel):
    """What a backup holds; `artifacts` are assets and fingerprints, `files` paths below the store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    created_at: datetime
    artifacts: tuple[tuple[str, str], ...]
    files: dict[str, FileRecord]

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(record.size_bytes for record in self.files.values())

    @field_validator("files")
    @classmethod
    def _require_names(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        wrong = [name for name in files if not is_to_save(name)]
        if wrong:
            raise ValueError(
                f"a file must be <asset>/<fingerprint>/<name>, or <name>.json below {' or '.join(RECORDS)}, got "
                f"{name_some([repr(name) for name in wrong], _SHOWN_NAMES)}"
            )
        return files


def is_to_save(name: str) -> bool:
    """Whether a file of that name, below a store, is an artifact's or a record, which a backup holds."""
    return is_below(name) and _IN_A_STORE.fullmatch(name) is not None
