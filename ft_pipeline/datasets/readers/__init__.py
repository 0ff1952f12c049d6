"""One file per kind of file; each yields batches of rows with their place, and never the whole file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

from ft_pipeline.datasets.readers.batch import Batch
from ft_pipeline.datasets.readers.csv_rows import read_csv
from ft_pipeline.datasets.readers.json_document import read_json
from ft_pipeline.datasets.readers.json_lines import read_json_lines
from ft_pipeline.datasets.readers.parquet_rows import read_parquet

# By the kind that a file's suffix says, its decompressed bytes and its name for errors.
READERS: dict[str, Callable[[BinaryIO, str], Iterator[Batch]]] = {
    "jsonl": read_json_lines,
    "json": read_json,
    "csv": read_csv,
    "parquet": read_parquet,
}
