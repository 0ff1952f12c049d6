"""raw_dataset: every row of every source in the canonical form, or with the reason why it has none, and its place."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.datasets.conversation import Conversation, RowFault
from ft_pipeline.datasets.formats.detect import SAMPLE_ROWS, Layout, choose_layout
from ft_pipeline.datasets.parallel import count_workers, map_in_order, without_cycle_search
from ft_pipeline.datasets.parse_request import ParseRequest
from ft_pipeline.datasets.parts import Part, chunk_path, finish_part, read_part, take_over
from ft_pipeline.datasets.raw import PARTS, RawDataset, RawSource, write_raw_dataset
from ft_pipeline.datasets.readers import READERS
from ft_pipeline.datasets.readers.batch import Batch, Record
from ft_pipeline.datasets.sources import TRAINING_SET, SourceFile
from ft_pipeline.datasets.sources.open import open_source
from ft_pipeline.errors import DatasetError, SourceError
from ft_pipeline.fingerprint import fingerprint, hash_file
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.summary import Summary

# A file whose first rows are all broken is looked into this far for one that shows its format.
_MOST_BATCHES_AHEAD = 4
# Raised when parsing changes what it makes of a file.
_VERSION = 1
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
RAW_SCHEMA = pa.schema(
    [
        ("line", pa.int64()),
        ("messages", _MESSAGES),
        ("extra", pa.string()),
        ("group", pa.string()),
        ("reason", pa.string()),  # of a row that is no conversation, with all that follows
        ("column", pa.int64()),
        ("detail", pa.string()),
        ("text", pa.string()),
    ]
)


@dataclass(frozen=True)
class _Piece:
    batch: Batch
    layout: Layout
    path: Path


def parse_sources(request: ParseRequest, reporter: Reporter) -> Summary:
    """Parse what no earlier data set has parsed.

    Raises:
        SourceError: a file cannot be read, or no format fits it; all faults are named.
        DatasetError: the training sources hold no row.
    """
    faults: list[str] = []
    sources: list[RawSource] = []
    taken = 0
    for source in request.sources:
        try:
            part, was_there = _parse(source, request)
        except SourceError as err:
            faults.append(str(err))
            continue
        taken += was_there
        sources.append(RawSource(set=source.set, file=source.name, sha256=source.sha256, part=part.folder.name,
                                 size_bytes=source.size_bytes, **part.facts))  # fmt: skip
    if faults:
        raise SourceError("\n".join(["the recipe's data sources cannot be used:", *faults]))
    write_raw_dataset(request.out_dir, RawDataset(sources=tuple(sources)))
    reporter.info(f"{len(sources)} files: {len(sources) - taken} parsed, {taken} known from an earlier data set")
    return _summarize(sources)


def _parse(source: SourceFile, request: ParseRequest) -> tuple[Part, bool]:
    key = fingerprint({"sha256": source.sha256, "layout": source.layout, "code": _VERSION})
    folder = request.out_dir / PARTS / key
    if folder.exists():  # the same bytes in another file
        return read_part(folder), True
    if found := take_over(PARTS, key, request.earlier, folder):
        return found, True
    folder.mkdir(parents=True)
    return finish_part(folder, _parse_file(source, folder)), False


def _parse_file(source: SourceFile, folder: Path) -> dict[str, Any]:
    rows = faults = 0
    layout: Layout | None = None
    try:
        with _open_whole(source) as stream:
            batches = READERS[source.kind](stream, source.name)
            head, batches = _look_ahead(batches)
            if head is not None:
                layout = choose_layout(source.name, head, source.format, source.columns)
                pieces = (_Piece(batch, layout, chunk_path(folder, i)) for i, batch in enumerate(batches))
                for counted in map_in_order(parse_batch, pieces, count_workers(source.size_bytes)):
                    rows, faults = rows + counted[0], faults + counted[1]
    except OSError as err:
        raise SourceError(f"{source.name}: cannot be read: {err.strerror or err}") from err
    if hash_file(source.path) != source.sha256:
        raise SourceError(f"{source.name}: changed while it was read. Run again when it is whole.")
    return {
        "rows": rows,
        "faults": faults,
        "format": layout.format if layout else "none",
        "seen": layout.seen if layout else "it has no rows",
    }


def parse_batch(piece: _Piece) -> tuple[int, int]:
    """Write the rows of a batch as one chunk.

    Returns:
        How many rows there are, and how many of them are no conversation.
    """
    rows: list[tuple[int, Conversation | None, str | None, RowFault | None, str | None]] = []
    with without_cycle_search():
        for record in piece.batch.decode():
            conversation, group, fault = _read_row(record, piece.layout)
            rows.append((record.line, conversation, group, fault, record.show() if fault else None))
    pq.write_table(_to_table(rows), piece.path, compression="zstd", compression_level=1)
    return len(rows), sum(row[1] is None for row in rows)


def _read_row(record: Record, layout: Layout) -> tuple[Conversation | None, str | None, RowFault | None]:
    if record.fault:
        return None, None, record.fault
    try:
        conversation, group = layout.parse(record.value)
    except RowFault as err:
        return None, None, err
    return conversation, group, None


def _to_table(rows: Sequence[tuple[int, Conversation | None, str | None, RowFault | None, str | None]]) -> pa.Table:
    offsets, roles, contents = [0], [], []
    for _, conversation, *_ in rows:
        if conversation:
            for message in conversation.messages:
                roles.append(message["role"])
                contents.append(message["content"])
        offsets.append(len(roles))
    turns = pa.StructArray.from_arrays(
        [pa.array(roles, pa.string()), pa.array(contents, pa.string())], ["role", "content"]
    )
    missing = pa.array([row[1] is None for row in rows], pa.bool_())
    messages = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), turns, mask=missing)
    faults = [row[3] for row in rows]
    columns = [
        pa.array([row[0] for row in rows], pa.int64()),
        messages.cast(_MESSAGES),
        pa.array([row[1].extra if row[1] else None for row in rows], pa.string()),
        pa.array([row[2] for row in rows], pa.string()),
        pa.array([fault.code if fault else None for fault in faults], pa.string()),
        pa.array([fault.column if fault else None for fault in faults], pa.int64()),
        pa.array([str(fault) if fault else None for fault in faults], pa.string()),
        pa.array([row[4] for row in rows], pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=RAW_SCHEMA)


def _look_ahead(batches: Iterator[Batch]) -> tuple[list[Any] | None, Iterator[Batch]]:
    """The first rows that can be read (None: there are no rows at all), and all batches."""
    has_rows = False
    taken: list[Batch] = []
    rows: list[Any] = []
    for batch in batches:
        taken.append(batch)
        for record in islice(batch.decode(), SAMPLE_ROWS):
            has_rows = True
            if record.fault is None and len(rows) < SAMPLE_ROWS:
                rows.append(record.value)
        if len(rows) >= SAMPLE_ROWS or len(taken) == _MOST_BATCHES_AHEAD:
            break
    return rows if has_rows else None, chain(taken, batches)


@contextmanager
def _open_whole(source: SourceFile) -> Iterator[BinaryIO]:
    """The decompressed bytes; of Parquet, which is not read from front to back, as a file that can be sought in."""
    with open_source(source.path, source.name) as stream:
        if source.kind != "parquet" or stream.seekable():
            yield stream
            return
        with tempfile.TemporaryFile() as file:
            shutil.copyfileobj(stream, file)
            yield file


def _summarize(sources: Sequence[RawSource]) -> Summary:
    training = [source for source in sources if source.set == TRAINING_SET]
    rows = sum(source.rows for source in training)
    if not rows:
        names = ", ".join(source.file for source in training)
        raise DatasetError(f"a data set must have at least one row; the sources are empty: {names}. Add rows to them.")
    table = [
        source.model_dump(include={"set", "file", "rows", "faults", "format", "seen", "size_bytes"})
        for source in sources
    ]
    return Summary(
        figures={
            "rows": sum(source.rows for source in sources),
            "training_rows": rows,
            "unreadable_rows": sum(source.faults for source in sources),
            "files": len(sources),
        },
        tables={"sources": table},
    )
