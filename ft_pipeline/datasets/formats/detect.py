"""Which format a file is in, by the columns of its first rows."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ft_pipeline.datasets.conversation import Conversation, RowFault
from ft_pipeline.datasets.formats import FORMATS
from ft_pipeline.datasets.formats.fields import read_group, read_tags
from ft_pipeline.datasets.formats.hints import advise
from ft_pipeline.errors import SourceError

if TYPE_CHECKING:
    import pyarrow as pa

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

    def parse(self, row: Any) -> tuple[Conversation, str | None, tuple[str, ...]]:
        """The conversation of a row, its group if it has one, and its tags.

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
        return format_.parse(row), read_group(row), read_tags(row)

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
        SourceError: no format fits any row, or no row has a column that the mapping names.
    """
    objects = [row for row in rows if isinstance(row, dict)]
    if objects:
        _require_mapped(name, objects, columns)
    if wanted != AUTO:
        return Layout(wanted, columns, "the recipe says so")
    if not rows:
        return Layout(UNKNOWN, columns, "none of its first rows can be read")
    votes = Counter(found for row in objects if (found := _detect(_rename(row, columns))))
    if not votes:
        seen = ", ".join(sorted(_columns_of(objects))[:20]) or "none"
        known = "; ".join(f"{key}: {', '.join(format_.columns)}" for key, format_ in FORMATS.items())
        raise SourceError(
            f"{name}: no format fits its first {len(rows)} rows, whose columns are: {seen}. A format goes by its "
            f"columns ({known}). {advise(rows)}"
        )
    most = max(FORMATS, key=lambda key: votes[key])
    shown = " and ".join(f'"{columns.get(column, column)}"' for column in FORMATS[most].columns)
    return Layout(most, columns, f"{shown} in {votes[most]} of the first {len(rows)} rows")


def _require_mapped(name: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    there = _columns_of(rows)
    faults = []
    for ours, theirs in columns.items():
        if theirs in there:
            continue
        near = difflib.get_close_matches(theirs, there, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(there[:20]) or 'none'}."
        faults.append(f"none has {theirs!r} (as {ours}); {hint}")
    if faults:
        raise SourceError(
            f"{name}: dataset.columns must name columns that the first {len(rows)} rows have: {' '.join(faults)} Fix "
            "the name, or give this source columns of its own."
        )


def _columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(column) for row in rows for column in row))


def _detect(row: Mapping[str, Any]) -> str | None:
    return next((name for name, format_ in FORMATS.items() if all(c in row for c in format_.columns)), None)


def _rename(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row under the format's names; a column that has such a name by itself is not what the recipe means."""
    renamed = dict(row)
    for ours, theirs in columns.items():
        renamed.pop(ours, None)
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
