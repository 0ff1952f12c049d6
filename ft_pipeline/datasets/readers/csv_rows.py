"""CSV with a header, as RFC 4180 writes it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import BinaryIO

from ft_pipeline.datasets.conversation import RowFault
from ft_pipeline.datasets.readers.batch import MAX_ROW_BYTES, MAX_SHOWN_CHARS, Batch, Record
from ft_pipeline.datasets.readers.json_lines import refuse_utf16
from ft_pipeline.errors import SourceError

_BATCH_ROWS = 10_000


def read_csv(stream: BinaryIO, name: str) -> Iterator[Batch]:
    """Batches of rows as objects by the header's names. An empty field is an empty text.

    After a row with wrong quotes, reading goes on at the next line.

    Raises:
        SourceError: there is no header, or a name stands twice in it.
    """
    lines = _Lines(stream, name)
    header = next(iter(_read_rows(lines)), None)
    if header is None:
        return
    names = _check_header(header, name)
    rows: list[Record] = []
    for row in _read_rows(lines):
        rows.append(_to_object(row, names) if row.fault is None else row)
        if len(rows) == _BATCH_ROWS:
            yield Batch(records=tuple(rows))
            rows = []
    if rows:
        yield Batch(records=tuple(rows))


class _Lines:
    """The lines of a stream as text, of which those of a broken row can be given back."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._ahead: list[str] = []
        self.taken: list[str] = []
        self.number = 0
        self._taken_chars = 0
        self._name = name

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._ahead.pop() if self._ahead else self._read()
        if not line:
            raise StopIteration
        self.number += 1
        self._taken_chars += len(line)
        if self._taken_chars > MAX_ROW_BYTES:
            raise csv.Error(f"a row must have at most {MAX_ROW_BYTES} characters; is a quote never closed?")
        self.taken.append(line)
        return line

    def begin_row(self) -> None:
        """What was taken so far is done with."""
        self.taken, self._taken_chars = [], 0

    def give_back(self, kept: int) -> None:
        """Read all but the first lines of this row again."""
        back = self.taken[kept:]
        self.number -= len(back)
        self._ahead += reversed(back)

    def _read(self) -> str:
        raw = self._stream.readline(MAX_ROW_BYTES)
        if self.number == 0 and not self.taken:
            refuse_utf16(raw, self._name)
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        # A byte that is no UTF-8 becomes a lone surrogate, which `_to_object` finds.
        return raw.decode("utf-8", errors="surrogateescape")


def _read_rows(lines: _Lines) -> Iterator[Record]:
    while True:
        lines.begin_row()
        first = lines.number + 1
        reader = csv.reader(lines, strict=True)
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as err:
            taken = lines.taken or [""]
            text = taken[0]
            lines.give_back(1)
            yield Record(first, None, _show(text), RowFault("invalid_csv", f"not valid CSV: {err}"))
            continue
        if fields:
            yield Record(first, fields, _show("".join(lines.taken)))


def _to_object(row: Record, names: list[str]) -> Record:
    fields: list[str] = row.value
    if len(fields) != len(names):
        fault = RowFault("wrong_shape", f"a row must have {len(names)} fields, as the header has; got {len(fields)}")
        return Record(row.line, None, row.text, fault)
    if any(_is_broken(field) for field in fields):
        return Record(row.line, None, row.text, RowFault("invalid_utf8", "not UTF-8"))
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
