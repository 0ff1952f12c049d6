"""What readers make of the bytes of one file."""

from __future__ import annotations

import io
from typing import Any

from ft_pipeline.datasets.readers import READERS
from ft_pipeline.datasets.readers.batch import Batch, Record


def read_batches(kind: str, content: str | bytes) -> list[Batch]:
    """All batches of a file `a.<kind>`."""
    data = content.encode() if isinstance(content, str) else content
    return list(READERS[kind](io.BytesIO(data), f"a.{kind}"))


def read_records(kind: str, content: str | bytes) -> list[Record]:
    """All of its rows."""
    return [record for batch in read_batches(kind, content) for record in batch.decode()]


def values(records: list[Record]) -> list[Any]:
    """The rows that can be read."""
    return [record.value for record in records if not record.fault]


def faults(records: list[Record]) -> list[tuple[int, str]]:
    """Line and reason of the others."""
    return [(record.line, record.fault.code) for record in records if record.fault]
