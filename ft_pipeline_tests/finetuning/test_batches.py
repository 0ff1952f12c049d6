"""Rows on disk, and the tensors that micro-batches of them are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.finetuning.batches import IGNORED, RowTable, _count, _lengths, count_targets, lay_flat, pad_rows

_PAD = 0
Lists = list[tuple[list[int], list[int]]]
MakeTable = Callable[[Lists], RowTable]


def _rows(max_rows: int = 8, min_tokens: int = 1) -> st.SearchStrategy[Lists]:
    token = st.integers(1, 99)
    pair = st.tuples(token, st.booleans())
    row = st.lists(pair, min_size=min_tokens, max_size=40)
    made = row.map(lambda pairs: ([t for t, _ in pairs], [t if learned else IGNORED for t, learned in pairs]))
    return st.lists(made, min_size=1, max_size=max_rows)


def _arrays(rows: Lists) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.array(ids, np.int64), np.array(labels, np.int64)) for ids, labels in rows]


def _targets(rows: Lists) -> list[int]:
    return [sum(label != IGNORED for label in labels[1:]) for _, labels in rows]


@pytest.fixture
def make_table(tmp_path: Path) -> MakeTable:
    def make(rows: Lists) -> RowTable:
        folder = tmp_path / "a [1]*"  # as a pattern, it does not name itself
        folder.mkdir()
        path = folder / "rows.parquet"
        columns = {
            "input_ids": [ids for ids, _ in rows],
            "labels": [labels for _, labels in rows],
            "source_file": ["data/raw/a.jsonl"] * len(rows),
            "source_line": list(range(1, len(rows) + 1)),
            "messages": ["not read"] * len(rows),
        }
        # Labels as the data set's stage writes them: narrower than what torch wants.
        types = {"input_ids": pl.List(pl.Int32), "labels": pl.List(pl.Int32)}
        pl.DataFrame(columns, schema_overrides=types).write_parquet(path, row_group_size=2)
        return RowTable(path, folder / "cache")

    return make


_THREE: Lists = [([5, 6, 7], [IGNORED, 6, 7]), ([8], [8]), ([9, 10, 11, 12], [9, IGNORED, 11, IGNORED])]


def test_rows_come_in_the_order_that_is_asked_for(make_table: MakeTable) -> None:
    table = make_table(_THREE)
    found = table.rows((2, 0))
    assert [(ids.tolist(), labels.tolist()) for ids, labels in found] == [_THREE[2], _THREE[0]]
    assert found[0][0].dtype == np.int64


def test_knows_lengths_targets_and_places_of_all_rows(make_table: MakeTable) -> None:
    table = make_table(_THREE)
    assert len(table) == 3
    assert table.lengths.tolist() == [3, 1, 4]
    assert table.label_counts.tolist() == [2, 0, 1]
    assert table.place(1) == "data/raw/a.jsonl:2"


def test_a_table_without_rows_has_no_lengths(make_table: MakeTable) -> None:
    table = make_table([])
    assert table.lengths.tolist() == table.label_counts.tolist() == []


@given(rows=_rows(min_tokens=0))
def test_targets_of_a_row_are_its_labels_after_the_first(rows: Lists) -> None:
    column = pl.Series([labels for _, labels in rows], dtype=pl.List(pl.Int32)).to_arrow()
    # Half of the lists: an array that begins inside another one's values.
    for start in (0, len(rows) // 2):
        part = column.slice(start)
        assert _count(part).tolist() == _targets(rows[start:])
        assert _lengths(part).tolist() == [len(ids) for ids, _ in rows[start:]]


@given(rows=_rows(), multiple=st.sampled_from([1, 8, 64]))
def test_flat_rows_are_whole_and_end_to_end(rows: Lists, multiple: int) -> None:
    batch = lay_flat(_arrays(rows), _PAD, multiple)
    lengths = batch["packed_seq_lengths"].tolist()
    assert sum(lengths) == batch["input_ids"].shape[1] == batch["labels"].shape[1]
    assert sum(lengths) % multiple == 0
    assert sum(lengths) - sum(len(ids) for ids, _ in rows) < multiple
    ends = np.cumsum(lengths)
    for (ids, labels), end, length in zip(rows, ends, lengths, strict=False):
        part = slice(int(end - length), int(end))
        assert batch["input_ids"][0, part].tolist() == ids
        assert batch["labels"][0, part].tolist() == [IGNORED, *labels[1:]]
        assert batch["position_ids"][0, part].tolist() == list(range(len(ids)))
    filling = slice(sum(len(ids) for ids, _ in rows), None)
    assert set(batch["labels"][0, filling].tolist()) <= {IGNORED}
    assert set(batch["input_ids"][0, filling].tolist()) <= {_PAD}


@given(rows=_rows())
def test_padded_rows_are_whole_and_filled_on_the_right(rows: Lists) -> None:
    batch = pad_rows(_arrays(rows), _PAD)
    longest = max(len(ids) for ids, _ in rows)
    for index, (ids, labels) in enumerate(rows):
        filling = longest - len(ids)
        assert batch["input_ids"][index].tolist() == ids + [_PAD] * filling
        assert batch["labels"][index].tolist() == labels + [IGNORED] * filling


@given(rows=_rows())
def test_both_layouts_learn_the_same_targets(rows: Lists) -> None:
    arrays = _arrays(rows)
    expected = sum(_targets(rows))
    assert count_targets(lay_flat(arrays, _PAD)) == count_targets(pad_rows(arrays, _PAD)) == expected


def test_rows_that_are_laid_flat_stay_as_they_were() -> None:
    rows = _arrays(_THREE)
    lay_flat(rows, _PAD)
    assert rows[1][1].tolist() == [8]


def test_lengths_of_a_flat_batch_are_what_kernels_take() -> None:
    import torch

    batch = lay_flat(_arrays(_THREE), _PAD)
    assert batch["packed_seq_lengths"].dtype == torch.int32
    assert batch["packed_seq_lengths"].tolist() == [3, 1, 4, 56]
    assert {batch[name].dtype for name in ("input_ids", "labels", "position_ids")} == {torch.int64}
