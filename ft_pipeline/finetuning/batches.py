"""Tokenized rows, and the tensors that a micro-batch of them is: packed end to end (flat), or padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

# What torch's cross entropy leaves out.
IGNORED = -100
Ids = npt.NDArray[np.int64]
Row = tuple[Ids, Ids]
_COLUMNS = ["input_ids", "labels", "source_file", "source_line"]


class RowTable:
    """The rows of a validated file, read from disk as they are asked for.

    Args:
        path: Parquet with `input_ids` and `labels`, lists of one length in each row, `source_file` and `source_line`.
        cache_dir: Folder for the memory-mapped copy.
    """

    def __init__(self, path: Path, cache_dir: Path) -> None:
        from datasets import Dataset

        self._path = path
        self._rows = Dataset.from_file(str(_copy_as_arrow(path, cache_dir))).with_format("arrow")

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, indices: Sequence[int]) -> list[Row]:
        """Token ids and labels of these rows, in this order."""
        found = self._rows[list(indices)]
        ids, labels = (_split(found[name].combine_chunks()) for name in ("input_ids", "labels"))
        return list(zip(ids, labels, strict=True))

    def place(self, index: int) -> str:
        """Where a row came from: `file:line`."""
        found = self._rows[[index]].to_pylist()[0]
        return f"{found['source_file']}:{found['source_line']}"

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row."""
        return np.concatenate([_lengths(column) for column in self._read("input_ids")] or [np.zeros(0, np.int64)])

    @cached_property
    def label_counts(self) -> npt.NDArray[np.int64]:
        """Targets of each row: nothing comes before its first token, so that one is never predicted."""
        return np.concatenate([_count(column) for column in self._read("labels")] or [np.zeros(0, np.int64)])

    def _read(self, name: str) -> Iterator[Any]:
        with pq.ParquetFile(self._path) as file:
            for batch in file.iter_batches(columns=[name]):
                yield batch.column(0)


def _copy_as_arrow(path: Path, folder: Path) -> Path:
    """A file that can be memory-mapped; `Dataset.from_parquet` would take `[` or `*` in the path for a pattern."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        pq.ParquetFile(path) as file,
        NamedTemporaryFile(dir=folder, suffix=".arrow", delete=False) as copy,
        pa.ipc.new_stream(copy, file.schema_arrow.empty_table().select(_COLUMNS).schema) as writer,
    ):
        for group in range(file.num_row_groups):
            writer.write_table(file.read_row_group(group, columns=_COLUMNS).select(_COLUMNS))
    return Path(copy.name)


def lay_flat(rows: Sequence[Row], pad_id: int, multiple: int = 64) -> dict[str, Any]:
    """Rows end to end in one sequence of T tokens, without attention or prediction across their borders.

    Args:
        rows: At least one.
        pad_id: Fills the sequence up; the filling is a segment of its own that nothing is learned from.
        multiple: T is one of it: few lengths, so kernels are compiled and memory is cut for few.

    Returns:
        input_ids, labels, position_ids: int64 [1, T]; a row's first label is ignored, its positions start at 0.
        packed_seq_lengths: int32 [segments] on the CPU, with the filling as the last segment if there is any.
    """
    import torch

    lengths = [len(ids) for ids, _ in rows]
    if filling := -sum(lengths) % multiple:
        lengths.append(filling)
    tail_ids, tail_labels = np.full(filling, pad_id, np.int64), np.full(filling, IGNORED, np.int64)
    labels = np.concatenate([label for _, label in rows] + [tail_labels])
    sizes = np.asarray(lengths, np.int64)
    starts = np.cumsum(sizes) - sizes
    labels[starts] = IGNORED
    flat = {
        "input_ids": np.concatenate([ids for ids, _ in rows] + [tail_ids]),
        "labels": labels,
        "position_ids": np.arange(len(labels), dtype=np.int64) - np.repeat(starts, sizes),
    }
    batch = {name: torch.from_numpy(values).unsqueeze(0) for name, values in flat.items()}
    return batch | {"packed_seq_lengths": torch.tensor(lengths, dtype=torch.int32)}


def pad_rows(rows: Sequence[Row], pad_id: int) -> dict[str, Any]:
    """Rows one above the other, padded on the right to the longest.

    No mask goes with them: attention is causal, so no token sees the padding behind it, and without a mask it takes the
    faster kernels.

    Returns:
        input_ids, labels: int64 [rows, longest].
    """
    import torch

    shape = len(rows), max(len(ids) for ids, _ in rows)
    input_ids, labels = np.full(shape, pad_id, np.int64), np.full(shape, IGNORED, np.int64)
    for index, (ids, label) in enumerate(rows):
        input_ids[index, : len(ids)], labels[index, : len(ids)] = ids, label
    return {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}


def count_targets(batch: dict[str, Any]) -> int:
    """Tokens of a micro-batch that are predicted and learned."""
    return int((batch["labels"][:, 1:] != IGNORED).sum())


def _split(column: Any) -> list[Ids]:
    values, offsets = _flatten(column)
    return np.split(values, offsets[1:-1])


def _lengths(column: Any) -> Ids:
    return np.diff(_flatten(column)[1])


def _count(column: Any) -> Ids:
    values, offsets = _flatten(column)
    learned = values != IGNORED
    # The first label of a row is no target; an empty row has none.
    starts = offsets[:-1][np.diff(offsets) > 0]
    learned[starts] = False
    sums = np.concatenate([[0], np.cumsum(learned, dtype=np.int64)])
    return np.diff(sums[offsets])


def _flatten(column: Any) -> tuple[Ids, Ids]:
    """Values of a list column end to end, and where each list begins, with the end of the last."""
    offsets = np.asarray(column.offsets.to_numpy(), dtype=np.int64)
    return column.flatten().to_numpy().astype(np.int64), offsets - offsets[0]
