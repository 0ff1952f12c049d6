"""A chunk of checked rows: one for each row of the raw chunk, those that are out of it included."""

from __future__ import annotations

import polars as pl

from ft_pipeline.datasets.near_duplicates import BANDS

CHECKED = "checked"
MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "line": pl.Int64,
    "column": pl.Int64,  # 0 where no place in the line is meant
    "messages": MESSAGES,  # as mended; null if the row is no conversation
    "extra": pl.String,
    "group": pl.String,
    "reasons": pl.List(pl.String),  # why the row is out; empty if it is not
    "detail": pl.String,
    "text": pl.String,  # of a row that is out: what stands in the file, cut
    "fixes": pl.List(pl.String),
    "warnings": pl.List(pl.String),
    "key": pl.Binary,  # 16 bytes: equal for exact duplicates
    "prompt": pl.UInt64,  # equal for equal prompts
    "position": pl.Float64,  # in [0, 1): below the held-out share it is held out
    "bands": pl.Array(pl.UInt64, BANDS),  # rows that share one may be near duplicates
    "input_ids": pl.List(pl.Int32),
    "labels": pl.List(pl.Int32),
    "learned": pl.UInt32,  # labels that are not masked
    "truncated": pl.Boolean,
}
CHECKED_SCHEMA = pl.Schema(_COLUMNS)
# All that finding duplicates needs of a row.
NARROW = ("line", "reasons", "key", "prompt", "position", "bands")
