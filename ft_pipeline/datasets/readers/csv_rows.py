"""CSV with a header, as RFC 4180 writes it."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import BinaryIO

from ft_pipeline.datasets.conversation import RowFault
from ft_pipeline.datasets.readers.batch import (
    MAX_ROW_BYTES,
    MAX_SHOWN_CHARS,
    Batch,
    Record,
    cut_batches,
    too_long,
)
from ft_pipeline.datasets.readers.csv_lines import Lines, LongLine
from ft_pipeline.errors import SourceError

_FIELD = re.compile(r'(?:"(?:[^"]|"")*+"|[^",\r\n][^,\r\n]*+|)(?:,|$)')


def read_csv(stream: BinaryIO, name: str) -> Iterator[Batch]:
    """Batches of rows as objects by the header's names. An empty field is an empty text.

    After a row with wrong quotes, reading goes on at the next line.

    Raises:
        SourceError: there is no header, or a name stands twice in it.
    """
    lines = Lines(stream, name)
    rows = _read_rows(lines)
    header = next(rows, None)
    if header is None:
        return
    names = _check_header(header, name)
    objects = (_to_object(row, names) if row.fault is None else row for row in rows)
    yield from cut_batches((row, lines.taken_chars) for row in objects)


def _read_rows(lines: Lines) -> Iterator[Record]:
    while True:
        lines.begin_row()
        first = lines.number + 1
        reader = csv.reader(lines, strict=True)
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as err:
            lines.give_back(1)
            yield _to_fault(first, lines.taken[0], err)
            continue
        if fields:
            yield Record(first, fields, _show("".join(lines.taken)))


def _to_fault(number: int, line: str, err: csv.Error) -> Record:
    """The record of a line with which no row can begin."""
    if isinstance(line, LongLine):
        return Record(number, None, _show(line), too_long(line.size_bytes))
    column = _find_broken_field(line.rstrip("\r\n"))
    return Record(number, None, _show(line), RowFault("invalid_csv", f"not valid CSV: {err}", column))


def _find_broken_field(line: str) -> int:
    """Where the first field begins that cannot be read, in bytes from 1; 0 if all fields of the line can be."""
    at = 0
    while at < len(line):
        field = _FIELD.match(line, at)
        if not field:
            return len(line[:at].encode(errors="surrogateescape")) + 1
        at = field.end()
    return 0


def _to_object(row: Record, names: list[str]) -> Record:
    fields: list[str] = row.value
    if len(fields) != len(names):
        fault = RowFault("wrong_shape", f"a row must have {len(names)} fields, as the header has; got {len(fields)}")
        return Record(row.line, None, row.text, fault)
    if broken := [name for name, field in zip(names, fields, strict=True) if _is_broken(field)]:
        fault = RowFault("invalid_utf8", f"not UTF-8: the field {broken[0]!r}")
        return Record(row.line, None, row.text, fault)
    return Record(row.line, dict(zip(names, fields, strict=True)), row.text)


def _check_header(header: Record, name: str) -> list[str]:
    if header.fault:
        raise SourceError(f"{name}:1: the header of a CSV file must be valid CSV: {header.fault}")
    names: list[str] = [field.strip() for field in header.value]
    if twice := sorted({field for field in names if names.count(field) > 1}):
        raise SourceError(f"{name}:1: the names of columns must differ; twice: {', '.join(map(repr, twice))}")
    return names


def _is_broken(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _show(text: str) -> str:
    return text[:MAX_SHOWN_CHARS].encode(errors="replace").decode().rstrip("\r\n")


csv.field_size_limit(MAX_ROW_BYTES)
