"""What a raw data set holds: its sources, and for each the part with its rows."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

PARTS = "parts"
_INDEX = "sources.json"


class RawSource(BaseModel):
    """One file of a raw data set.

    Attributes:
        set: `train`, or the name of a test set.
        file: Its name, for people.
        part: Key of the part that holds its rows.
        rows: Rows in all.
        faults: Rows that are no conversation.
        format: In which they are written.
        seen: Why that format.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    set: str
    file: str
    sha256: str
    size_bytes: int
    part: str
    rows: int
    faults: int
    format: str
    seen: str


class RawDataset(BaseModel):
    """All of them, in the order in which rows are taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[RawSource, ...]


def write_raw_dataset(folder: Path, dataset: RawDataset) -> None:
    """Write the index."""
    (folder / _INDEX).write_text(dataset.model_dump_json(indent=1), encoding="utf-8")


def read_raw_dataset(folder: Path) -> RawDataset:
    """Read the index."""
    return RawDataset.model_validate_json((folder / _INDEX).read_bytes())
