"""JSON lines: cut at line breaks into batches; the lines are decoded by whoever takes the batch."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import BinaryIO

from ft_pipeline.datasets.conversation import RowFault
from ft_pipeline.datasets.readers.batch import MAX_ROW_BYTES, MAX_SHOWN_CHARS, Batch, Record
from ft_pipeline.errors import SourceError

BATCH_BYTES = 4 << 20
_BOM = b"\xef\xbb\xbf"


def read_json_lines(stream: BinaryIO, name: str) -> Iterator[Batch]:
    """Batches of whole lines. A line of more than 16 MiB is a fault, and only its head is kept in memory.

    Raises:
        SourceError: the file is UTF-16.
    """
    rest, line = _begin(stream, name), 1
    while block := stream.read(BATCH_BYTES):
        data = rest + block
        end = data.rfind(b"\n") + 1
        if end:
            yield Batch(lines=data[:end], first_line=line)
            line += data.count(b"\n", 0, end)
        rest = data[end:]
        if len(rest) > MAX_ROW_BYTES:
            tail = yield from _skip_long_line(stream, rest, line)
            rest, line = tail, line + 1
    if rest:
        yield Batch(lines=rest, first_line=line)


def _begin(stream: BinaryIO, name: str) -> bytes:
    head = stream.read(4)
    refuse_utf16(head, name)
    return head.removeprefix(_BOM)


def refuse_utf16(head: bytes, name: str) -> None:
    """Raise `SourceError` if a file begins with UTF-16's byte order mark."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise SourceError(f"{name}: text must be UTF-8, and this is UTF-16. Convert it: iconv -f UTF-16 -t UTF-8")


def _skip_long_line(stream: BinaryIO, head: bytes, line: int) -> Generator[Batch, None, bytes]:
    """Yield the fault of a line that is too long.

    Returns:
        What was read behind it.
    """
    length, tail = len(head), b""
    while block := stream.read(BATCH_BYTES):
        end = block.find(b"\n") + 1
        length += end or len(block)
        if end:
            tail = block[end:]
            break
    fault = RowFault("line_too_long", f"a row must have at most {MAX_ROW_BYTES} bytes, got {length}")
    yield Batch(records=(Record(line, None, head[:MAX_SHOWN_CHARS].decode(errors="replace"), fault),))
    return tail
