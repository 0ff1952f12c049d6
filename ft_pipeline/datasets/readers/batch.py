"""What readers yield."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ft_pipeline.datasets.conversation import RowFault
from ft_pipeline.datasets.json_text import decode_json

MAX_ROW_BYTES = 16 << 20
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
                    raise RowFault("line_too_long", f"a row must have at most {MAX_ROW_BYTES} bytes, got {len(line)}")
                yield Record(number, decode_json(line))
            except RowFault as err:
                yield Record(number, None, line[: MAX_SHOWN_CHARS * 4].decode(errors="replace").rstrip("\r"), err)


def show_row(value: Any) -> str:
    """A row as JSON, for people."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return repr(value)[:MAX_SHOWN_CHARS]
