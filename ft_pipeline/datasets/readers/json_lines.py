"""JSON lines: cut at line breaks into batches; the lines are decoded by whoever takes the batch."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import BinaryIO

from ft_pipeline.datasets.readers.batch import BATCH_BYTES, MAX_ROW_BYTES, MAX_SHOWN_CHARS, Batch, Record, too_long
from ft_pipeline.datasets.readers.file_head import refuse_no_json_lines, refuse_utf16

_BOM = b"\xef\xbb\xbf"


def read_json_lines(stream: BinaryIO, name: str) -> Iterator[Batch]:
    """Batches of whole lines. A line of more than 16 MiB is a fault, and only its head is kept in memory.

    Raises:
        SourceError: the file is UTF-16, has carriage returns as line breaks, or is a JSON document.
    """
    block = stream.read(BATCH_BYTES)
    refuse_utf16(block, name)
    block = block.removeprefix(_BOM)
    refuse_no_json_lines(block, name)
    rest, line = b"", 1
    while block:
        data = rest + block
        end = data.rfind(b"\n") + 1
        if end:
            yield Batch(lines=data[:end], first_line=line)
            line += data.count(b"\n", 0, end)
        rest = data[end:]
        if len(rest) > MAX_ROW_BYTES:
            tail = yield from _skip_long_line(stream, rest, line)
            rest, line = tail, line + 1
        block = stream.read(BATCH_BYTES)
    if rest:
        yield Batch(lines=rest, first_line=line)


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
    yield Batch(records=(Record(line, None, head[:MAX_SHOWN_CHARS].decode(errors="replace"), too_long(length)),))
    return tail
