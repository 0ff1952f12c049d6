"""Columns of lists, made from their flat values: ten times as fast as from lists of Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray


def list_column(name: str, codes: Mapping[int, Sequence[str]], count: int) -> pl.Series:
    """A column of `count` lists of codes, most of them empty."""
    lengths = np.zeros(count + 1, np.int32)
    for row, found in codes.items():
        lengths[row + 1] = len(found)
    flat = pa.array([code for row in sorted(codes) for code in codes[row]], pa.string())
    lists = pa.ListArray.from_arrays(pa.array(np.cumsum(lengths, dtype=np.int32)), flat)
    return pl.Series(name, pl.from_arrow(lists), pl.List(pl.String))


def id_column(name: str, rows: Sequence[NDArray[np.int32] | None]) -> pl.Series:
    """A column of ids; null where there are none."""
    there = [row for row in rows if row is not None]
    if not there:
        return pl.Series(name, [None] * len(rows), pl.List(pl.Int32))
    offsets = np.cumsum([0, *(0 if row is None else len(row) for row in rows)], dtype=np.int32)
    missing = pa.array([row is None for row in rows], pa.bool_())
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(there)), mask=missing)
    return pl.Series(name, pl.from_arrow(lists), pl.List(pl.Int32))
