"""Writes a validated data set chunk by chunk: each row goes into one of four files, and is counted."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.datasets.duplicates import KEPT, Repeats
from ft_pipeline.datasets.readers.batch import MAX_SHOWN_CHARS
from ft_pipeline.datasets.sources import TRAINING_SET
from ft_pipeline.datasets.tally import Tally
from ft_pipeline.datasets.turns import MESSAGES
from ft_pipeline.datasets.validated import DUPLICATES_FILE, EVALUATION_FILE, QUARANTINE_FILE, TRAIN_FILE

_ORIGIN = {"set": pl.String, "source_file": pl.String, "source_line": pl.Int64}
_ROWS = pl.Schema(
    _ORIGIN
    | {
        "messages": MESSAGES,
        "extra": pl.String,
        "group": pl.String,
        "tags": pl.List(pl.String),
        "key": pl.String,
        "position": pl.Float64,
        "warnings": pl.List(pl.String),
        "input_ids": pl.List(pl.Int32),
        "labels": pl.List(pl.Int32),
    }
)
_QUARANTINE = pl.Schema(
    _ORIGIN | {"column": pl.Int64, "reasons": pl.List(pl.String), "detail": pl.String, "row": pl.String}
)
_DUPLICATES = pl.Schema(
    _ORIGIN | {"kind": pl.String, "of_file": pl.String, "of_line": pl.Int64, "similarity": pl.Float64, "row": pl.String}
)
_FILES = {TRAIN_FILE: _ROWS, EVALUATION_FILE: _ROWS, QUARANTINE_FILE: _QUARANTINE, DUPLICATES_FILE: _DUPLICATES}


@dataclass(frozen=True)
class Chunk:
    """A chunk of rows: its set (before the split), its source file and where its raw and checked rows lie."""

    set: str
    file: str
    raw: Path
    checked: Path


class DatasetWriter:
    """The four files of a data set, open until the block ends.

    Args:
        folder: Where to.
        chunks: All chunks, in the order of their numbers.
        rows: The narrow rows that keep the contract, in the order of the chunks.
        repeats: What became of each of them.
        tally: Counts.
    """

    def __init__(self, folder: Path, chunks: list[Chunk], rows: pl.DataFrame, repeats: Repeats, tally: Tally) -> None:
        self._folder = folder
        self._chunks = chunks
        self._sets = rows["set"]
        self._chunk_of, self._line_of = rows["chunk"].to_numpy(), rows["line"].to_numpy()
        self._repeats = repeats
        self._tally = tally
        self._at = 0
        self._stack = ExitStack()
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._written: Future[None] | None = None

    def __enter__(self) -> DatasetWriter:
        # Compressing one chunk takes as long as preparing the next.
        self._thread = self._stack.enter_context(ThreadPoolExecutor(1))
        for name, schema in _FILES.items():
            arrow = schema.to_frame().to_arrow(compat_level=pl.CompatLevel.oldest()).schema
            writer = pq.ParquetWriter(
                self._folder / name, arrow, compression="zstd", compression_level=1, write_statistics=False
            )
            self._writers[name] = self._stack.enter_context(writer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._await()
        finally:
            self._stack.__exit__(kind, err, trace)

    def write(self, chunk: Chunk, frame: pl.DataFrame) -> None:
        """Write the rows of the next chunk."""
        frame = frame.with_columns(pl.lit(chunk.file).alias("source_file"), pl.col("line").alias("source_line"))
        is_kept = pl.col("reasons").list.len() == 0
        out = frame.filter(~is_kept).with_columns(pl.lit(chunk.set).alias("set"), pl.col("text").alias("row"))
        clean = self._with_fate(frame.filter(is_kept))
        unique = clean.filter(pl.col("kind") == KEPT)
        repeated = clean.filter(pl.col("kind") != KEPT)
        frames = {
            QUARANTINE_FILE: out,
            TRAIN_FILE: unique.filter(pl.col("set") == TRAINING_SET),
            EVALUATION_FILE: unique.filter(pl.col("set") != TRAINING_SET),
            DUPLICATES_FILE: self._name_originals(repeated),
        }
        tables = {name: self._to_table(name, some) for name, some in frames.items() if some.height}
        self._await()
        self._written = self._thread.submit(self._put_all, tables)
        self._tally.count(chunk.set, chunk.file, out, unique, repeated)

    def _with_fate(self, clean: pl.DataFrame) -> pl.DataFrame:
        here = slice(self._at, self._at + clean.height)
        self._at += clean.height
        return clean.with_columns(
            self._sets[here].cast(pl.String).alias("set"),
            pl.Series("kind", self._repeats.kind[here], pl.String),
            pl.Series("of", self._repeats.of[here]),
            pl.Series("similarity", self._repeats.similarity[here]),
            pl.col("key").bin.encode("hex"),
        )

    def _name_originals(self, repeated: pl.DataFrame) -> pl.DataFrame:
        originals = repeated["of"].to_numpy()
        files = [self._chunks[number].file for number in self._chunk_of[originals].tolist()]
        shown = pl.col("messages").list.eval(pl.element().struct.json_encode()).list.join(", ")
        return repeated.with_columns(
            pl.Series("of_file", files, pl.String),
            pl.Series("of_line", self._line_of[originals]),
            pl.format("[{}]", shown).str.slice(0, MAX_SHOWN_CHARS).alias("row"),
        )

    def _await(self) -> None:
        if self._written:
            self._written.result()
            self._written = None

    def _put_all(self, tables: Mapping[str, pa.Table]) -> None:
        for name, table in tables.items():
            self._writers[name].write_table(table)

    def _to_table(self, name: str, frame: pl.DataFrame) -> pa.Table:
        schema = _FILES[name]
        table = frame.select(schema.names()).cast(schema).to_arrow(compat_level=pl.CompatLevel.oldest())
        return _plain(table, self._writers[name].schema)


def _plain(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return table if table.schema == schema else table.cast(schema)
