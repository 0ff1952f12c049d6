"""What readers yield."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ft_pipeline.datasets.conversation import RowFault
from ft_pipeline.datasets.json_text import decode_json

BATCH_BYTES = 8 << 20
_BATCH_ROWS = 10_000
MAX_ROW_BYTES = 16 << 20
# Far more than a report shows: a key that begins there ends here, and is found.
MAX_SHOWN_CHARS = 20_000


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a file.

    Attributes:
        line: Its line, from 1; in a Parquet file its position.
        value: What stands there; None if it has a fault.
        text: The row as it stands there, cut; empty where `value` says it.
        fault: Why it cannot be read.
    """

    line: int
    value: Any
    text: str = ""
    fault: RowFault | None = None

    def show(self) -> str:
        """The row as text, cut."""
        return (self.text or show_row(self.value))[:MAX_SHOWN_CHARS]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some consecutive rows of a file: decoded, or lines of JSON that whoever takes the batch decodes."""

    records: tuple[Record, ...] = ()
    lines: bytes = b""
    first_line: int = 1

    def decode(self) -> Iterator[Record]:
        """All rows; blank lines are none."""
        yield from self.records
        for number, line in enumerate(self.lines.split(b"\n"), start=self.first_line):
            if not line or line.isspace():
                continue
            try:
                if len(line) > MAX_ROW_BYTES:
                    raise too_long(len(line))
                yield Record(number, decode_json(line))
            except RowFault as err:
                yield Record(number, None, line[: MAX_SHOWN_CHARS * 4].decode(errors="replace").rstrip("\r"), err)


def cut_batches(rows: Iterable[tuple[Record, int]]) -> Iterator[Batch]:
    """Batches of about 8 MiB and at most 10,000 rows.

    Args:
        rows: Each with its size in bytes.
    """
    records: list[Record] = []
    taken_bytes = 0
    for record, size_bytes in rows:
        records.append(record)
        taken_bytes += size_bytes
        if taken_bytes >= BATCH_BYTES or len(records) == _BATCH_ROWS:
            yield Batch(records=tuple(records))
            records, taken_bytes = [], 0
    if records:
        yield Batch(records=tuple(records))


def too_long(size_bytes: int) -> RowFault:
    """The fault of a row above the limit."""
    return RowFault("line_too_long", f"a row must have at most {MAX_ROW_BYTES} bytes, got {size_bytes}")


def show_row(value: Any) -> str:
    """A row as JSON, for people."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return repr(value)[:MAX_SHOWN_CHARS]
