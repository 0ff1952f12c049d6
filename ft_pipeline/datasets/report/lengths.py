"""One pass over the token columns of a validated folder. A batch at a time: no column is ever in memory as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ft_pipeline.datasets.report.request import POOL
from ft_pipeline.datasets.report.tally import Tally, merge
from ft_pipeline.datasets.validated import EVALUATION_FILE, TRAIN_FILE

_MASKED = -100
# Rows of up to 32k tokens stay within some hundred megabytes.
_BATCH_ROWS = 512


@dataclass
class SetLengths:
    """Lengths of one set's rows.

    Attributes:
        tokens: Tokens of each row.
        learned: Tokens of each row that the loss sees.
        turns: Messages of each row.
        roles: How many messages have each role.
        ids: How often each token id stands in a row.
    """

    tokens: Tally = field(default_factory=Tally)
    learned: Tally = field(default_factory=Tally)
    turns: Tally = field(default_factory=Tally)
    roles: Counter[str] = field(default_factory=Counter)
    ids: Tally = field(default_factory=Tally)


def read_lengths(folder: Path) -> dict[str, SetLengths]:
    """The lengths of every set in a validated folder."""
    import pyarrow.compute as pc

    sets: dict[str, SetLengths] = {}
    for file in (TRAIN_FILE, EVALUATION_FILE):
        for batch in iter_batches(folder / file, ("set", "messages", "input_ids", "labels"), leaf="role"):
            for name in sorted(set(batch.column("set").to_pylist())):
                _count(sets.setdefault(name, SetLengths()), batch.filter(pc.equal(batch.column("set"), name)))
    return sets


def pool(sets: dict[str, SetLengths]) -> SetLengths:
    """Training and held-out rows together: all that came from the recipe's sources."""
    parts = [sets[name] for name in POOL if name in sets]
    return SetLengths(
        tokens=merge([part.tokens for part in parts]),
        learned=merge([part.learned for part in parts]),
        turns=merge([part.turns for part in parts]),
        roles=sum((part.roles for part in parts), Counter()),
        ids=merge([part.ids for part in parts]),
    )


def iter_batches(path: Path, columns: Sequence[str], leaf: str = "") -> Iterator[Any]:
    """Record batches of a parquet file, read page by page.

    Args:
        path: The file.
        columns: What to read of it.
        leaf: Read only this field of nested columns that have it.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        paths = [file.schema.column(index).path for index in range(len(file.schema))]
        wanted = []
        for column in columns:
            leaves = [path for path in paths if path == column or path.startswith(f"{column}.")]
            wanted += [path for path in leaves if leaf and path.endswith(f".{leaf}")] or leaves
        yield from file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted)


def _count(lengths: SetLengths, batch: Any) -> None:
    messages, ids, labels = (batch.column(name) for name in ("messages", "input_ids", "labels"))
    lengths.turns.add(_list_lengths(messages))
    lengths.tokens.add(_list_lengths(ids))
    lengths.ids.add(ids.flatten().to_numpy(zero_copy_only=False))
    lengths.learned.add(_count_learned(labels))
    for pair in messages.flatten().field("role").value_counts().to_pylist():
        lengths.roles[pair["values"]] += pair["counts"]


def _count_learned(labels: Any) -> npt.NDArray[np.int64]:
    """Labels of each row that are not masked."""
    is_learned = labels.flatten().to_numpy(zero_copy_only=False) != _MASKED
    before = np.concatenate([[0], np.cumsum(is_learned)])
    ends = np.cumsum(_list_lengths(labels))
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    return np.asarray(before[ends] - before[starts], np.int64)


def _list_lengths(lists: Any) -> npt.NDArray[np.int64]:
    import pyarrow.compute as pc

    found = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.asarray(found, np.int64)
