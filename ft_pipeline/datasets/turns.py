"""All turns of a chunk's conversations, one below the other, so that whole columns are worked on at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))


@dataclass(frozen=True)
class Turns:
    """Turns by conversation.

    Attributes:
        frame: row (position of the conversation), role, content, may_be_empty (a turn that calls a tool).
        starts: Where each conversation begins and the last one ends, shape (conversations + 1,).
    """

    frame: pl.DataFrame
    starts: NDArray[np.int64]

    @classmethod
    def read(cls, messages: pl.Series, extras: pl.Series | None = None) -> Turns:
        """The turns of conversations that have at least one each."""
        counts = messages.list.len().to_numpy().astype(np.int64)
        starts = np.concatenate(([0], np.cumsum(counts)))
        may_be_empty = np.zeros(starts[-1], bool)
        if extras is not None:
            may_be_empty[_find_callers(extras, starts)] = True
        rows = pl.Series("row", np.repeat(np.arange(len(counts), dtype=np.uint32), counts))
        flat = messages.explode().struct.unnest()
        return cls(flat.insert_column(0, rows).with_columns(may_be_empty=pl.Series(may_be_empty)), starts)

    def replace(self, places: Sequence[int], contents: Sequence[str]) -> Turns:
        """The turns with some contents changed."""
        mended = self.frame["content"].scatter(places, contents)
        return replace(self, frame=self.frame.with_columns(mended.alias("content")))

    def join(self, column: pl.Series, separator: str) -> pl.Series:
        """One text of each conversation: those of its turns, with a separator between them."""
        return _join(self.starts, _to_arrow(column), separator)

    def join_some(self, column: pl.Series, which: NDArray[np.bool_], separator: str) -> pl.Series:
        """The same of those turns only that are marked."""
        starts = np.concatenate(([0], np.cumsum(np.add.reduceat(which.astype(np.int64), self.starts[:-1]))))
        return _join(starts, _to_arrow(column.filter(which)), separator)

    def say(self) -> pl.Series:
        """What is said in each conversation; not what the system turn says, which many of them share."""
        is_said = (self.frame["role"] != "system").to_numpy()
        return self.join_some(self.frame["content"], is_said, "\n")

    def is_context(self) -> NDArray[np.bool_]:
        """Marks the turns that a conversation's last answer follows, the system turn left out."""
        is_context = (self.frame["role"] != "system").to_numpy().copy()
        counts = np.diff(self.starts)
        is_context[self.starts[1:][counts > 1] - 1] = False
        return is_context

    def transcribe(self, contents: pl.Series) -> pl.Series:
        """One text of each conversation: roles and contents, with marks between them."""
        parts = [_to_arrow(self.frame["role"]), _to_arrow(contents), pa.scalar("\x00", pa.large_string())]
        return _join(self.starts, pc.binary_join_element_wise(*parts), "\x01")

    def first(self, is_wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The place of the first wanted turn of each conversation; of its first turn where none is."""
        none = len(is_wanted)
        places = np.minimum.reduceat(np.where(is_wanted, np.arange(none), none), self.starts[:-1])
        return np.where(places == none, self.starts[:-1], places)

    def pack(self, rows: Sequence[int]) -> pl.Series:
        """The messages of each conversation, null but of the given ones."""
        numbers = pl.DataFrame({"row": np.arange(len(self.starts) - 1, dtype=np.uint32)})
        if not rows:
            return pl.select(pl.repeat(None, numbers.height, dtype=MESSAGES)).to_series()
        wanted = self.frame.filter(pl.col("row").is_in(rows))
        packed = wanted.group_by("row").agg(pl.struct("role", "content").alias("messages"))
        return numbers.join(packed, on="row", how="left", maintain_order="left")["messages"]


def _join(starts: NDArray[np.int64], texts: pa.Array, separator: str) -> pl.Series:
    lists = pa.LargeListArray.from_arrays(pa.array(starts), texts)
    return pl.Series(values=pc.binary_join(lists, pa.scalar(separator, texts.type)))


def _find_callers(extras: pl.Series, starts: NDArray[np.int64]) -> list[int]:
    """The places of turns that call a tool."""
    with_extra = extras.is_not_null().arg_true()
    return [
        int(starts[row]) + int(turn)
        for row, extra in zip(with_extra, extras.gather(with_extra), strict=True)
        for turn, fields in json.loads(extra).get("turns", {}).items()
        if fields.get("tool_calls")
    ]


def _to_arrow(column: pl.Series) -> pa.Array:
    return column.to_arrow(compat_level=pl.CompatLevel.oldest())
