"""raw_dataset: every row of every source in the canonical form, or with the reason why it has none, and its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ft_pipeline.datasets.conversation import Conversation, RowFault
from ft_pipeline.datasets.formats.detect import SAMPLE_ROWS, Layout, choose_layout
from ft_pipeline.datasets.formats.plain_chat import MESSAGES
from ft_pipeline.datasets.parallel import count_workers, map_in_order, without_cycle_search
from ft_pipeline.datasets.parse_request import ParseRequest
from ft_pipeline.datasets.parts import begin_part, chunk_path, finish_part, read_part, write_chunk
from ft_pipeline.datasets.raw import PARTS, RawDataset, RawSource, write_raw_dataset
from ft_pipeline.datasets.readers import READERS
from ft_pipeline.datasets.readers.batch import Batch, Record
from ft_pipeline.datasets.sources import TRAINING_SET, SourceFile
from ft_pipeline.datasets.sources.open import open_rows
from ft_pipeline.errors import DatasetError, SourceError
from ft_pipeline.fingerprint import fingerprint, hash_file
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.summary import Summary

# A file whose first rows are all broken is looked into this far for one that shows its format.
_MOST_BATCHES_AHEAD = 4
RAW_SCHEMA = pa.schema(
    [
        ("line", pa.int64()),
        ("messages", MESSAGES),
        ("extra", pa.string()),
        ("group", pa.string()),
        ("tags", pa.list_(pa.string())),  # null where there are none
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


@dataclass(frozen=True)
class _Chunk:
    path: Path
    sha256: str
    rows: int
    faults: int


class _Row(NamedTuple):
    """A row of a batch: a conversation, or why it is none and what stands there."""

    line: int
    conversation: Conversation | None
    group: str | None
    tags: tuple[str, ...]
    fault: RowFault | None
    text: str | None


@dataclass
class _Reading:
    """A file that no earlier data set has parsed, and what is known of it so far."""

    source: SourceFile
    folder: Path
    layout: Layout | None = None
    chunks: list[_Chunk] = field(default_factory=list)

    def finish(self) -> None:
        facts = {
            "rows": sum(chunk.rows for chunk in self.chunks),
            "faults": sum(chunk.faults for chunk in self.chunks),
            "format": self.layout.format if self.layout else "none",
            "seen": self.layout.seen if self.layout else "it has no rows",
        }
        finish_part(self.folder, {chunk.path.name: chunk.sha256 for chunk in self.chunks}, facts)


def parse_sources(request: ParseRequest, reporter: Reporter) -> Summary:
    """Parse what no earlier data set has parsed.

    Raises:
        SourceError: a file cannot be read, or no format fits it; all faults are named.
        DatasetError: the training sources hold no row.
    """
    keys = [
        fingerprint({"sha256": source.sha256, "layout": source.layout, "maker": request.maker})
        for source in request.sources
    ]
    readings: dict[Path, _Reading] = {}
    for source, key in zip(request.sources, keys, strict=True):
        folder = request.out_dir / PARTS / key
        if begin_part(folder, request.earlier):
            readings[folder] = _Reading(source, folder)
    _parse_files(readings)
    sources = [
        RawSource(set=source.set, file=source.name, sha256=source.sha256, part=key, size_bytes=source.size_bytes,
                  **read_part(request.out_dir / PARTS / key).facts)
        for source, key in zip(request.sources, keys, strict=True)
    ]  # fmt: skip
    write_raw_dataset(request.out_dir, RawDataset(sources=tuple(sources)))
    taken = len(sources) - len(readings)
    reporter.info(f"{len(sources)} files: {len(readings)} parsed, {taken} known from an earlier data set")
    return _summarize(sources)


def _parse_files(readings: Mapping[Path, _Reading]) -> None:
    errors: list[str] = []
    workers = count_workers(sum(reading.source.size_bytes for reading in readings.values()))
    for chunk in map_in_order(parse_batch, _cut(readings.values(), errors), workers):
        readings[chunk.path.parent].chunks.append(chunk)
    if errors:
        raise SourceError("\n".join(["the recipe's data sources cannot be used:", *errors]))
    for reading in readings.values():
        reading.finish()


def _cut(readings: Iterable[_Reading], errors: list[str]) -> Iterator[_Piece]:
    """The pieces of all files; what is wrong with a whole file is noted."""
    for reading in readings:
        try:
            yield from _cut_file(reading)
        except SourceError as err:
            errors.append(str(err))
        except OSError as err:
            errors.append(f"{reading.source.name}: cannot be read: {err.strerror or err}")


def _cut_file(reading: _Reading) -> Iterator[_Piece]:
    source = reading.source
    with open_rows(source) as stream:
        head, batches = _look_ahead(READERS[source.kind](stream, source.name))
        if head is not None:
            layout = reading.layout = choose_layout(source.name, head, source.format, source.columns)
            for number, batch in enumerate(batches):
                yield _Piece(batch, layout, chunk_path(reading.folder, number))
    if hash_file(source.path) != source.sha256:
        raise SourceError(f"{source.name}: changed while it was read. Run again when it is whole.")


def parse_batch(piece: _Piece) -> _Chunk:
    """Write the rows of a batch as one chunk."""
    batch = piece.batch
    messages = None if batch.records else piece.layout.read_plain(batch.lines)
    if messages is not None:
        table = _to_plain_table(messages, batch.first_line)
        return _Chunk(piece.path, write_chunk(table, piece.path), len(messages), 0)
    with without_cycle_search():
        rows = [_read_row(record, piece.layout) for record in batch.decode()]
    faults = sum(row.fault is not None for row in rows)
    return _Chunk(piece.path, write_chunk(_to_table(rows), piece.path), len(rows), faults)


def _to_plain_table(messages: pa.ListArray, first_line: int) -> pa.Table:
    lines = np.arange(first_line, first_line + len(messages))
    known = {"line": pa.array(lines), "messages": messages}
    columns = [
        known[field.name] if field.name in known else pa.nulls(len(messages), field.type) for field in RAW_SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=RAW_SCHEMA)


def _read_row(record: Record, layout: Layout) -> _Row:
    fault = record.fault
    if fault is None:
        try:
            return _Row(record.line, *layout.parse(record.value), None, None)
        except RowFault as err:
            fault = err
    return _Row(record.line, None, None, (), fault, record.show())


def _to_table(rows: Sequence[_Row]) -> pa.Table:
    offsets, roles, contents = [0], [], []
    for row in rows:
        if row.conversation:
            for message in row.conversation.messages:
                roles.append(message["role"])
                contents.append(message["content"])
        offsets.append(len(roles))
    turns = pa.StructArray.from_arrays(
        [pa.array(roles, pa.string()), pa.array(contents, pa.string())], ["role", "content"]
    )
    missing = pa.array([row.conversation is None for row in rows], pa.bool_())
    messages = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), turns, mask=missing)
    faults = [row.fault for row in rows]
    columns = [
        pa.array([row.line for row in rows], pa.int64()),
        messages.cast(MESSAGES),
        pa.array([row.conversation.extra if row.conversation else None for row in rows], pa.string()),
        pa.array([row.group for row in rows], pa.string()),
        pa.array([row.tags or None for row in rows], pa.list_(pa.string())),
        pa.array([fault.code if fault else None for fault in faults], pa.string()),
        pa.array([fault.column if fault else None for fault in faults], pa.int64()),
        pa.array([str(fault) if fault else None for fault in faults], pa.string()),
        pa.array([row.text for row in rows], pa.string()),
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
