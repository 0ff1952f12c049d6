"""What the beginning of a text file tells of mistakes that would break each of its rows: one error names the cause."""

from __future__ import annotations

import re

from ft_pipeline.datasets.conversation import RowFault
from ft_pipeline.datasets.json_text import decode_json
from ft_pipeline.errors import SourceError

_UTF_16_BYTES = 4096
_BREAK_BETWEEN_ROWS = re.compile(rb"\}[ \t]*\r[ \t\r]*\{")
_NOT_BLANK = re.compile(rb"\S")
_ARRAY_OF_ROWS = re.compile(rb"\[[ \t\r]*\{")


def refuse_utf16(head: bytes, name: str) -> None:
    """Refuse UTF-16, with its byte order mark or without.

    Raises:
        SourceError: it is.
    """
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise SourceError(f"{name}: text must be UTF-8, and this is UTF-16. Convert it: iconv -f UTF-16 -t UTF-8")
    start = head[:_UTF_16_BYTES]
    # Latin letters have a NUL in each second byte, low byte first or last.
    for order, high, low in (("LE", start[1::2], start[::2]), ("BE", start[::2], start[1::2])):
        nuls = high.count(0)
        if nuls * 5 >= len(high) > 3 and low.count(0) * 4 <= nuls:
            raise SourceError(
                f"{name}: text must be UTF-8, and this looks like UTF-16 without a byte order mark: {nuls} of its "
                f"first {len(start)} bytes are NUL. Convert it: iconv -f UTF-16{order} -t UTF-8"
            )


def refuse_carriage_returns(first_line: bytes, name: str) -> None:
    """Refuse a table whose first line is all of it.

    Raises:
        SourceError: it has carriage returns and no line feed.
    """
    if b"\n" not in first_line and b"\r" in first_line.strip():
        raise _no_line_feeds(name)


def refuse_no_json_lines(head: bytes, name: str) -> None:
    """Refuse what are no lines of JSON, but rows with other line breaks or one JSON document.

    Args:
        head: Some first lines.
        name: The file, for errors.

    Raises:
        SourceError: it is that. Of a file that is broken in part, the rows are left to be told.
    """
    if b"\n" not in head and _BREAK_BETWEEN_ROWS.search(head):
        raise _no_line_feeds(name)
    first, begin, end = _find_line(head, 0)
    second, _, _ = _find_line(head, end)
    if _is_object(second):
        return
    if first == b"{" and second[:1] in (b'"', b"}"):
        seen = "its first row goes on in the next lines"
    elif (first == b"[" and second) or _ARRAY_OF_ROWS.match(first):
        seen = "it begins with an array"
    else:
        return
    number = head.count(b"\n", 0, begin) + 1
    raise SourceError(
        f"{name}:{number}: a .jsonl file must have one row a line, and {seen}: this is a JSON document. Name it .json"
    )


def _no_line_feeds(name: str) -> SourceError:
    return SourceError(
        f"{name}: each row must end with a line feed (\\n), and this file has carriage returns (\\r) alone. "
        "Convert it: tr '\\r' '\\n'"
    )


def _find_line(text: bytes, at: int) -> tuple[bytes, int, int]:
    """The next line that is not blank, stripped, where it begins and where it ends."""
    found = _NOT_BLANK.search(text, at)
    if not found:
        return b"", at, at
    end = text.find(b"\n", found.start())
    end = len(text) if end < 0 else end
    return text[found.start() : end].strip(), found.start(), end


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(decode_json(line), dict)
    except RowFault:
        return False
