"""A JSON document: an array of rows, or rows one after the other. It is decoded row by row, so faults have a line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import BinaryIO

from ft_pipeline.datasets.conversation import RowFault
from ft_pipeline.datasets.json_text import read_value, require_whole_characters
from ft_pipeline.datasets.readers.batch import MAX_SHOWN_CHARS, Batch, Record
from ft_pipeline.datasets.readers.json_lines import refuse_utf16
from ft_pipeline.errors import SourceError

MAX_DOCUMENT_BYTES = 256 << 20
_BATCH_ROWS = 10_000
_BLANK = re.compile(r"[ \t\r\n]*")
# A place in a line that begins farther back than this is not worth looking for.
_LONG_LINE_CHARS = 1 << 16
_NEXT_ROW = re.compile(r"\}\s*,?\s*(?=\{)")


class _Text(str):
    """A document. Each `JSONDecodeError` counts all lines before it, which many broken rows make the square of them."""

    __slots__ = ()

    def count(self, *_: object) -> int:
        return 0

    def rfind(self, *_: object) -> int:
        return -1


def read_json(stream: BinaryIO, name: str) -> Iterator[Batch]:
    """Batches of the rows of a document.

    After a row that is broken, reading goes on at the next place that looks like a row's beginning.

    Raises:
        SourceError: the document is larger than 256 MiB, no UTF-8, or no array and no objects.
    """
    data = stream.read(MAX_DOCUMENT_BYTES + 1)
    refuse_utf16(data[:2], name)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise SourceError(
            f"{name}: a .json file must be at most {MAX_DOCUMENT_BYTES >> 20} MiB, for it is read as a whole. "
            "Write it as .jsonl, one row a line."
        )
    try:
        text = _Text(data.decode("utf-8-sig"))
    except UnicodeDecodeError as err:
        raise SourceError(f"{name}: text must be UTF-8; byte {err.start} is not ({err.reason})") from err
    rows: list[Record] = []
    for row in _read_rows(text, name):
        rows.append(row)
        if len(rows) == _BATCH_ROWS:
            yield Batch(records=tuple(rows))
            rows = []
    if rows:
        yield Batch(records=tuple(rows))


def _read_rows(text: str, name: str) -> Iterator[Record]:
    at = _skip_blank(text, 0)
    if at == len(text):
        return
    is_array = text[at] == "["
    if not is_array and text[at] != "{":
        line = str.count(text, "\n", 0, at) + 1
        raise SourceError(f"{name}:{line}: a .json file must be an array of rows or rows one after the other")
    at += is_array
    line, counted = 1, 0
    while (at := _skip_separator(text, at)) < len(text) and not (is_array and text[at] == "]"):
        line, counted = line + str.count(text, "\n", counted, at), at
        row, at = _read_row(text, at, line)
        yield row
    if is_array and at == len(text):
        fault = RowFault("invalid_json", "the array has no end: the file may be cut off")
        yield Record(line + str.count(text, "\n", counted), None, text[-MAX_SHOWN_CHARS:], fault)


def _read_row(text: str, at: int, line: int) -> tuple[Record, int]:
    try:
        value, end = read_value(text, at)
        require_whole_characters(text[at:end], value)
    except json.JSONDecodeError as err:
        begin = str.rfind(text, "\n", max(0, err.pos - _LONG_LINE_CHARS), err.pos)
        column = err.pos - begin if begin >= 0 or err.pos < _LONG_LINE_CHARS else 0
        place = line + str.count(text, "\n", at, err.pos)
        fault = RowFault("invalid_json", f"not valid JSON: {err.msg} (line {place})", column)
    except RecursionError:
        fault = RowFault("too_deep", "nested deeper than can be read")
    except RowFault as err:
        fault = err
    except ValueError as err:
        fault = RowFault("invalid_json", f"not valid JSON: {err}")
    else:
        return Record(line, value), end
    after = _NEXT_ROW.search(text, at + 1)
    end = after.end() if after else len(text)
    return Record(line, None, text[at : min(end, at + MAX_SHOWN_CHARS)], fault), end


def _skip_blank(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at


def _skip_separator(text: str, at: int) -> int:
    at = _skip_blank(text, at)
    return _skip_blank(text, at + 1) if text[at : at + 1] == "," else at
