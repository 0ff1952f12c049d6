"""A chunk of checked rows: one for each row of the raw chunk, in its order, those that are out included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ft_pipeline.datasets.signatures import SIGNATURE
from ft_pipeline.datasets.turns import MESSAGES

CHECKED = "checked"
_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "line": pl.Int64,
    "column": pl.Int64,  # 0 where no place in the line is meant
    "mended": MESSAGES,  # null where the raw chunk's messages stay as they are
    "reasons": pl.List(pl.String),  # why the row is out; empty if it is not
    "detail": pl.String,
    "text": pl.String,  # of a row that is out: what stands in the file, cut
    "fixes": pl.List(pl.String),
    "warnings": pl.List(pl.String),
    "key": pl.Binary,  # 16 bytes: equal for exact duplicates
    "prompt": pl.UInt64,  # equal where all that is said before the answer is equal
    "position": pl.Float64,  # in [0, 1): below the held-out share it is held out
    "signature": pl.Array(pl.UInt16, SIGNATURE),  # alike for near duplicates
    "input_ids": pl.List(pl.Int32),
    "labels": pl.List(pl.Int32),
    "learned": pl.UInt32,  # labels that are not masked
    "truncated": pl.Boolean,
}
CHECKED_SCHEMA = pl.Schema(_COLUMNS)
# All that finding duplicates needs of a row.
NARROW = ("line", "reasons", "key", "prompt", "position", "signature")


def read_rows(raw: Path, checked: Path) -> pl.DataFrame:
    """The checked rows with what the raw chunk knows of them: messages (as mended), extra, group, tags."""
    rows = pl.read_parquet(checked, glob=False)
    known = pl.read_parquet(raw, columns=["messages", "extra", "group", "tags"], glob=False)
    messages = take_mended(rows["mended"], known["messages"])
    return rows.with_columns(messages.alias("messages"), known["extra"], known["group"], known["tags"]).drop("mended")


def read_messages(raw: Path, checked: Path, numbers: NDArray[np.int64]) -> pl.Series:
    """The messages of some rows, as mended."""
    mended = pl.read_parquet(checked, columns=["mended"], glob=False)["mended"]
    messages = pl.read_parquet(raw, columns=["messages"], glob=False)["messages"]
    return take_mended(mended.gather(numbers), messages.gather(numbers))


def take_mended(mended: pl.Series, messages: pl.Series) -> pl.Series:
    """Messages as mended where they were."""
    return messages if mended.null_count() == len(mended) else pl.select(pl.coalesce(mended, messages)).to_series()
