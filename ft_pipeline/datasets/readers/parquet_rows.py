"""Parquet, batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from ft_pipeline.datasets.readers.batch import Batch, Record
from ft_pipeline.errors import SourceError

_BATCH_ROWS = 10_000
_MOST_UNPACKED = 200
_UNPACKED_BYTES = 1 << 30


def read_parquet(stream: BinaryIO, name: str) -> Iterator[Batch]:
    """Batches of rows as objects; a row's place is its position from 1.

    Raises:
        SourceError: the file is no Parquet, or says that it unpacks to more than 200 times its size.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    position = 0
    try:
        file = pq.ParquetFile(stream)
        unpacked = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        if unpacked > max(_UNPACKED_BYTES, _MOST_UNPACKED * size):
            raise SourceError(f"{name}: unpacks to {unpacked} bytes from {size}: this is no data set but a bomb")
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            values = batch.to_pylist()
            yield Batch(records=tuple(Record(position + i, value) for i, value in enumerate(values, start=1)))
            position += len(values)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as err:  # the last: a date that Python cannot hold
        raise SourceError(f"{name}: no whole Parquet file: {err}. Write it again.") from err
