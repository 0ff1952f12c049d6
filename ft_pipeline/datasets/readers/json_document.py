"""A JSON document: an array of rows, or rows one after the other. It is decoded row by row, so faults have a line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from ft_pipeline.datasets.conversation import RowFault
from ft_pipeline.datasets.json_text import read_value, require_whole_characters
from ft_pipeline.datasets.readers.batch import MAX_ROW_BYTES, MAX_SHOWN_CHARS, Batch, Record, cut_batches, too_long
from ft_pipeline.datasets.readers.file_head import refuse_utf16
from ft_pipeline.datasets.readers.json_resync import Resync
from ft_pipeline.errors import SourceError

MAX_DOCUMENT_BYTES = 256 << 20
_HEAD_BYTES = 4096
_UNCLOSED = "not valid JSON: a bracket or a quote is not closed"
_BLANK = re.compile(r"[ \t\r\n]*")
# A place in a line that begins farther back than this is not worth looking for.
_LONG_LINE_CHARS = 1 << 16


class _Text(str):
    """A document. Each `JSONDecodeError` counts all lines before it, which many broken rows make the square of them."""

    __slots__ = ()

    def count(self, *_: object) -> int:
        return 0

    def rfind(self, *_: object) -> int:
        return -1


def read_json(stream: BinaryIO, name: str) -> Iterator[Batch]:
    """Batches of the rows of a document.

    After a row that is broken, reading goes on behind it; see `Resync`. What stands behind an array is read like what
    stands before it: rows, another array, or faults.

    Raises:
        SourceError: the document is larger than 256 MiB, no UTF-8, or no array and no objects.
    """
    data = stream.read(MAX_DOCUMENT_BYTES + 1)
    refuse_utf16(data[:_HEAD_BYTES], name)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise SourceError(
            f"{name}: a .json file must be at most {MAX_DOCUMENT_BYTES >> 20} MiB, for it is read as a whole. "
            "Write it as .jsonl, one row a line."
        )
    try:
        text = _Text(data.decode("utf-8-sig"))
    except UnicodeDecodeError as err:
        raise SourceError(f"{name}: text must be UTF-8; byte {err.start} is not ({err.reason})") from err
    del data
    begin = _skip_blank(text, 0)
    if text[begin : begin + 1] not in ("[", "{", ""):
        line = str.count(text, "\n", 0, begin) + 1
        raise SourceError(f"{name}:{line}: a .json file must be an array of rows or rows one after the other")
    yield from cut_batches(_read_rows(text))


def _read_rows(text: str) -> Iterator[tuple[Record, int]]:
    resync = Resync(text)
    is_array, at, begin = False, 0, 0
    line, counted = 1, 0
    while (at := _skip_blank(text, at)) < len(text):
        if text[at] == ("]" if is_array else "["):
            is_array, at, begin = not is_array, at + 1, at
            continue
        at = _skip_separator(text, at)
        if at == len(text) or (is_array and text[at] == "]"):
            continue
        line, counted, begin = line + str.count(text, "\n", counted, at), at, at
        row, end = _read_row(text, at, line, is_array, resync)
        yield row, end - at
        at = end
    if is_array:
        fault = RowFault("invalid_json", "the array has no end: the file may be cut off")
        # From where the last row begins: a text that begins within a key does not let it be found.
        shown = text[begin : begin + MAX_SHOWN_CHARS].rstrip(", \t\r\n")
        yield Record(line + str.count(text, "\n", counted), None, shown, fault), MAX_SHOWN_CHARS


def _read_row(text: str, at: int, line: int, is_array: bool, resync: Resync) -> tuple[Record, int]:
    try:
        value, end = _read_value(text, at, resync)
    except (RecursionError, ValueError) as err:
        end = resync.find_end(at, is_array)
        fault = _explain(err, text, at, end, line)
    else:
        resync.note_row(at, value)
        size_bytes = _count_bytes(text, at, end)
        if size_bytes <= MAX_ROW_BYTES:
            return Record(line, value), end
        fault = too_long(size_bytes)
    return Record(line, None, text[at : min(end, at + MAX_SHOWN_CHARS)].rstrip(", \t\r\n"), fault), end


def _read_value(text: str, at: int, resync: Resync) -> tuple[Any, int]:
    if resync.is_spent:
        try:
            value, length = read_value(text[at : resync.guess_end(at)], 0)
        except json.JSONDecodeError as err:
            raise json.JSONDecodeError(err.msg, text, at + err.pos) from err
        end = at + length
    else:
        value, end = read_value(text, at)
    require_whole_characters(text[at:end], value)
    return value, end


def _explain(err: Exception, text: str, at: int, end: int, line: int) -> RowFault:
    """Why the row from `at` to `end` cannot be read, and where in it."""
    if isinstance(err, RecursionError):
        try:  # without the rows behind it, which a row without an end would hold
            read_value(text[at:end], 0)
        except json.JSONDecodeError:
            return RowFault("invalid_json", _UNCLOSED)
        except (RecursionError, ValueError):
            pass
        return RowFault("too_deep", "nested deeper than can be read")
    if isinstance(err, RowFault):
        return err
    if not isinstance(err, json.JSONDecodeError):
        return RowFault("invalid_json", f"not valid JSON: {err}")
    if err.pos >= end and end < len(text):
        return RowFault("invalid_json", _UNCLOSED)
    begin = str.rfind(text, "\n", max(0, err.pos - _LONG_LINE_CHARS), err.pos)
    column = err.pos - begin if begin >= 0 or err.pos < _LONG_LINE_CHARS else 0
    place = line + str.count(text, "\n", at, err.pos)
    return RowFault("invalid_json", f"not valid JSON: {err.msg} (line {place})", column)


def _count_bytes(text: str, at: int, end: int) -> int:
    """Size of a part; exact where it may matter."""
    return end - at if 4 * (end - at) <= MAX_ROW_BYTES else len(text[at:end].encode(errors="surrogatepass"))


def _skip_blank(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at


def _skip_separator(text: str, at: int) -> int:
    at = _skip_blank(text, at)
    return _skip_blank(text, at + 1) if text[at : at + 1] == "," else at
