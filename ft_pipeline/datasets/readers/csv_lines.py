"""The lines of a CSV file as its parser takes them, with bounds."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import BinaryIO

from ft_pipeline.datasets.readers.batch import BATCH_BYTES, MAX_ROW_BYTES, MAX_SHOWN_CHARS
from ft_pipeline.datasets.readers.file_head import refuse_carriage_returns, refuse_utf16


class LongLine(str):
    """The head of a line above the limit, whose rest has been passed over."""

    size_bytes: int


class Lines:
    """The lines of a stream as text, of which those of a broken row can be given back.

    Attributes:
        taken: Those of the row that is being read.
        taken_chars: How much they are.
        number: Of the last line that was taken, from 1.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._ahead: list[str] = []
        self._is_begun = False
        self.taken: list[str] = []
        self.taken_chars = 0
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._ahead.pop() if self._ahead else self._read()
        if not line:
            raise StopIteration
        self.number += 1
        self.taken_chars += len(line)
        self.taken.append(line)
        if isinstance(line, LongLine) or self.taken_chars > MAX_ROW_BYTES:
            raise csv.Error(f"a row must have at most {MAX_ROW_BYTES} characters; is a quote never closed?")
        return line

    def begin_row(self) -> None:
        """What was taken so far is done with."""
        self.taken, self.taken_chars = [], 0

    def give_back(self, kept: int) -> None:
        """Read all but the first lines of this row again."""
        back = self.taken[kept:]
        self.taken = self.taken[:kept]
        self.taken_chars = sum(map(len, self.taken))
        self.number -= len(back)
        self._ahead += reversed(back)

    def _read(self) -> str:
        raw = self._stream.readline(MAX_ROW_BYTES + 1)
        if not self._is_begun:
            refuse_utf16(raw, self._name)
            refuse_carriage_returns(raw, self._name)
            raw = raw.removeprefix(b"\xef\xbb\xbf")
            self._is_begun = True
        if len(raw) > MAX_ROW_BYTES:
            return self._pass_over(raw)
        # A byte that is no UTF-8 becomes a lone surrogate, which `_to_object` finds.
        return raw.decode("utf-8", errors="surrogateescape")

    def _pass_over(self, head: bytes) -> LongLine:
        size_bytes, block = len(head), head
        while block and not block.endswith(b"\n"):
            block = self._stream.readline(BATCH_BYTES)
            size_bytes += len(block)
        line = LongLine(head[: 4 * MAX_SHOWN_CHARS].decode("utf-8", errors="surrogateescape"))
        line.size_bytes = size_bytes
        return line
