"""raw_dataset: every line of every source as it was, with its file and line number."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.datasets.sources import SourceFile
from ft_pipeline.errors import DatasetError, SourceError
from ft_pipeline.summary import Summary

RAW_FILE = "rows.parquet"
RAW_SCHEMA = pa.schema(
    [
        ("set", pa.string()),
        ("source_file", pa.string()),
        ("source_line", pa.int64()),
        ("text", pa.string()),
        ("fault", pa.string()),  # a reason code when the line is no text that could be parsed
    ]
)
_BATCH_ROWS = 10_000
_MAX_LINE_BYTES = 16 << 20


def snapshot_sources(sources: Sequence[SourceFile], out_dir: Path) -> Summary:
    """Write all lines of the sources to `rows.parquet`, a batch at a time. Blank lines are left out.

    Raises:
        DatasetError: there is no line at all in the training sources.
        SourceError: a file changed while it was read.
    """
    counts: Counter[str] = Counter()
    with pq.ParquetWriter(out_dir / RAW_FILE, RAW_SCHEMA, compression="zstd") as writer:
        for source in sources:
            for batch in _batches(source):
                writer.write_batch(batch)
                counts[source.name] += batch.num_rows
    training_rows = sum(counts[source.name] for source in sources if source.set == "train")
    if not training_rows:
        names = ", ".join(source.name for source in sources if source.set == "train")
        raise DatasetError(f"a data set must have at least one row; the sources are empty: {names}. Add rows to them.")
    return Summary(
        figures={"rows": counts.total(), "training_rows": training_rows, "files": len(sources)},
        tables={
            "sources": [
                {"set": s.set, "file": s.name, "rows": counts[s.name], "size_bytes": s.size_bytes, "sha256": s.sha256}
                for s in sources
            ]
        },
    )


def _batches(source: SourceFile) -> Iterator[pa.RecordBatch]:
    rows: list[tuple[str, str, int, str, str | None]] = []
    digest = hashlib.sha256()
    try:
        with source.path.open("rb") as file:
            for number, (line, line_bytes) in enumerate(_read_lines(file, digest), start=1):
                if line.strip():
                    rows.append((source.set, source.name, number, *_decode(line, line_bytes)))
                if len(rows) == _BATCH_ROWS:
                    yield _to_batch(rows)
                    rows = []
    except OSError as err:
        raise SourceError(f"{source.name}: cannot be read: {err.strerror}") from err
    if digest.hexdigest() != source.sha256:
        raise SourceError(f"{source.name}: changed while it was read. Run again when it is whole.")
    if rows:
        yield _to_batch(rows)


def _read_lines(file: BinaryIO, digest: hashlib._Hash) -> Iterator[tuple[bytes, int]]:
    """Lines and their lengths; of a line that is too long only the head is kept in memory."""
    while head := file.readline(_MAX_LINE_BYTES):
        length, end = len(head), head
        digest.update(head)
        while not end.endswith(b"\n") and (end := file.readline(_MAX_LINE_BYTES)):
            length += len(end)
            digest.update(end)
        yield head, length


def _decode(line: bytes, line_bytes: int) -> tuple[str, str | None]:
    if line_bytes > _MAX_LINE_BYTES:
        return line[:1000].decode("utf-8", errors="replace"), "line_too_long"
    try:
        return line.decode("utf-8").rstrip("\r\n"), None
    except UnicodeDecodeError:
        return line.decode("utf-8", errors="replace").rstrip("\r\n"), "invalid_utf8"


def _to_batch(rows: list[tuple[str, str, int, str, str | None]]) -> pa.RecordBatch:
    columns = [
        pa.array(column, type=field.type) for column, field in zip(zip(*rows, strict=True), RAW_SCHEMA, strict=True)
    ]
    return pa.record_batch(columns, schema=RAW_SCHEMA)
