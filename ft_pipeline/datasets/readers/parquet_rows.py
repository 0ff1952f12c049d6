"""Parquet, batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, BinaryIO

from ft_pipeline.datasets.conversation import RowFault
from ft_pipeline.datasets.readers.batch import (
    BATCH_BYTES,
    MAX_ROW_BYTES,
    Batch,
    Record,
    cut_batches,
    show_row,
    too_long,
)
from ft_pipeline.errors import SourceError

# A text that stands in a column many times is written once, so a file's own figures say little: of 1 MiB each, the
# most that writers keep in this way, these are 1 GiB.
_MOST_ROWS = 1024
_MOST_UNPACKED = 200
_UNPACKED_BYTES = 1 << 30


def read_parquet(stream: BinaryIO, name: str) -> Iterator[Batch]:
    """Batches of rows as objects; a row's place is its position from 1.

    A row with a value that Python cannot hold has a fault that names its column.

    Raises:
        SourceError: the file is no Parquet, has two columns of one name or one that cannot be read, or says that it
            unpacks to more than 200 times its size.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    try:
        file = pq.ParquetFile(stream)
        _check_columns(file, name)
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        unpacked = sum(group.total_byte_size for group in groups)
        if unpacked > max(_UNPACKED_BYTES, _MOST_UNPACKED * size):
            raise SourceError(f"{name}: unpacks to {unpacked} bytes from {size}: this is no data set but a bomb")
        yield from cut_batches(_read_rows(file))
    except pa.ArrowNotImplementedError as err:
        raise SourceError(
            f"{name}: each column must be of a type that can be read, and one is not: {err}. The file is whole: leave "
            "the column out or write it as text."
        ) from err
    except (pa.ArrowException, OSError, ValueError) as err:
        raise SourceError(f"{name}: no whole Parquet file: {err}. Write it again.") from err


def _check_columns(file: Any, name: str) -> None:
    names = file.schema_arrow.names
    if twice := sorted({column for column in names if names.count(column) > 1}):
        raise SourceError(f"{name}: the names of columns must differ; twice: {', '.join(map(repr, twice))}")


def _read_rows(file: Any) -> Iterator[tuple[Record, int]]:
    position = 1
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        fitting = BATCH_BYTES * group.num_rows // max(1, group.total_byte_size)
        for batch in file.iter_batches(batch_size=max(1, min(fitting, _MOST_ROWS)), row_groups=[number]):
            for piece in _cut(batch):
                row_bytes = piece.nbytes // piece.num_rows
                yield from ((record, row_bytes) for record in _convert(piece, position))
                position += piece.num_rows


def _cut(batch: Any) -> Iterator[Any]:
    """Pieces of about the size of a batch: as objects of Python, rows are several times larger."""
    rows = max(1, BATCH_BYTES * batch.num_rows // max(1, batch.nbytes))
    yield from (batch.slice(at, rows) for at in range(0, batch.num_rows, rows))


def _convert(batch: Any, position: int) -> list[Record]:
    values = _to_objects(batch) if batch.nbytes <= MAX_ROW_BYTES else None
    if values is not None:
        return [Record(position + at, value) for at, value in enumerate(values)]
    return [_convert_row(batch.slice(at, 1), position + at) for at in range(batch.num_rows)]


def _convert_row(row: Any, position: int) -> Record:
    values, fault = {}, None
    if row.nbytes > MAX_ROW_BYTES:
        return Record(position, None, ", ".join(row.schema.names), too_long(row.nbytes))
    for column in row.schema.names:
        try:
            values[column] = row.column(column).to_pylist()[0]
        except UnicodeDecodeError:
            fault = fault or RowFault("invalid_utf8", f"not UTF-8: the column {column!r}")
        except (ValueError, OverflowError) as err:  # a date that Python cannot hold
            kind = row.schema.field(column).type
            fault = fault or RowFault("wrong_shape", f"the column {column!r} ({kind}) has no such value: {err}")
    return Record(position, None, show_row(values), fault) if fault else Record(position, values)


def _to_objects(batch: Any) -> list[dict[str, Any]] | None:
    """The rows; None if one of them has a value that cannot be held."""
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except (ValueError, OverflowError):  # among them pa.ArrowInvalid and UnicodeDecodeError
        return None
    return rows
