"""Which format a file is in, by the columns of its first rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ft_pipeline.datasets.conversation import Conversation, RowFault
from ft_pipeline.datasets.formats import FORMATS
from ft_pipeline.errors import SourceError

SAMPLE_ROWS = 100
AUTO = "auto"
# Of a file whose first rows are all broken: what can be read after them has no format either.
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Layout:
    """How the rows of a file are read.

    Attributes:
        format: A name in `FORMATS`.
        columns: The file's name of a column, by the format's name for it.
        seen: Why this format, for people.
    """

    format: str
    columns: Mapping[str, str]
    seen: str = ""

    def parse(self, row: Any) -> tuple[Conversation, str | None]:
        """The conversation of a row, and its group if it has one.

        Raises:
            RowFault: it is none of this format.
        """
        if self.format == UNKNOWN:
            raise RowFault("wrong_shape", "the file's first rows cannot be read, so its format is not known; name it")
        if type(row) is not dict:
            raise RowFault("wrong_shape", f"a row must be an object, got {type(row).__name__}")
        if self.columns:
            row = _rename(row, self.columns)
        format_ = FORMATS[self.format]
        for column in format_.columns:
            if column not in row:
                raise _misfit(row, self.format, self.columns)
        group = row.get("group")
        return format_.parse(row), None if group is None else str(group)

    def read_plain(self, lines: bytes) -> pa.ListArray | None:
        """The messages of lines of JSON, if there is a short way to them."""
        known = FORMATS.get(self.format)
        return known.read_plain(lines) if known and known.read_plain and not self.columns else None


def choose_layout(name: str, rows: Sequence[Any], wanted: str, columns: Mapping[str, str]) -> Layout:
    """The layout of a file.

    Args:
        name: The file, for errors.
        rows: Its first rows, as many as `SAMPLE_ROWS`; those that are no objects are left out.
        wanted: The recipe's format, or `auto`.
        columns: The recipe's mapping.

    Raises:
        SourceError: no format fits any row.
    """
    if wanted != AUTO:
        return Layout(wanted, columns, "the recipe says so")
    if not rows:
        return Layout(UNKNOWN, columns, "none of its first rows can be read")
    objects = [_rename(row, columns) for row in rows if isinstance(row, dict)]
    votes = Counter(found for row in objects if (found := _detect(row)))
    if not votes:
        seen = ", ".join(sorted({str(column) for row in objects for column in row})[:20]) or "none"
        known = "; ".join(f"{key}: {', '.join(format_.columns)}" for key, format_ in FORMATS.items())
        raise SourceError(
            f"{name}: no format fits its first {len(rows)} rows, whose columns are: {seen}. A format goes by its "
            f"columns ({known}). Map yours in the recipe, e.g. dataset.columns: "
            "{prompt: question, completion: answer}."
        )
    most = max(FORMATS, key=lambda key: votes[key])
    shown = " and ".join(f'"{columns.get(column, column)}"' for column in FORMATS[most].columns)
    return Layout(most, columns, f"{shown} in {votes[most]} of the first {len(rows)} rows")


def _detect(row: Mapping[str, Any]) -> str | None:
    return next((name for name, format_ in FORMATS.items() if all(c in row for c in format_.columns)), None)


def _rename(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    renamed = dict(row)
    for theirs in columns.values():
        renamed.pop(theirs, None)
    for ours, theirs in columns.items():
        if theirs in row:
            renamed[ours] = row[theirs]
    return renamed


def _misfit(row: Mapping[str, Any], wanted: str, columns: Mapping[str, str]) -> RowFault:
    lacking = ", ".join(f'"{columns.get(c, c)}"' for c in FORMATS[wanted].columns if c not in row)
    other = _detect(row)
    if other:
        return RowFault("mixed_formats", f"the file is {wanted}, and this row looks like {other}: it lacks {lacking}")
    has = ", ".join(sorted(str(column) for column in row)[:10]) or "none"
    return RowFault("wrong_shape", f"a row of {wanted} must have {lacking}; its columns: {has}")
