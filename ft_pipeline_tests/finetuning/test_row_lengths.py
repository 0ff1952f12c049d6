from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.errors import DatasetError
from ft_pipeline.finetuning.row_lengths import RowLengths
from ft_pipeline.finetuning.schedule import Slicing

_LENGTHS = st.lists(st.integers(1, 4096), min_size=1, max_size=300)


@given(_LENGTHS, st.integers(1, 50_000), st.integers(1, 20_000), st.booleans())
def test_a_typical_step_holds_no_more_than_it_computes(
    lengths: list[int], step_tokens: int, tokens: int, is_packed: bool
) -> None:
    shape = RowLengths.of(lengths).lay(step_tokens, Slicing(tokens, is_packed))
    assert shape.micro_batches >= 1
    assert shape.real_tokens <= shape.computed_tokens
    assert shape.real_tokens == shape.computed_tokens or not is_packed
    assert shape.attended_tokens <= max(lengths)


def test_many_rows_are_stood_for_by_some_and_the_longest_is_kept() -> None:
    found = RowLengths.of([*range(1, 100_001), 500_000])
    assert (found.count, found.longest, len(found.quantiles)) == (100_001, 500_000, 1024)
    assert sum(found.quantiles) / 1024 == pytest.approx(50_000, rel=0.01)


def test_rows_of_one_length_need_no_padding() -> None:
    shape = RowLengths.assumed(512).lay(4096, Slicing(2048, is_packed=False))
    assert (shape.micro_batches, shape.computed_tokens, shape.attended_tokens) == (2, 4096, 512)


def test_padding_is_counted_for_rows_of_many_lengths() -> None:
    shape = RowLengths.of([100, 400]).lay(1000, Slicing(1600, is_packed=False))
    assert (shape.real_tokens, shape.computed_tokens, shape.micro_batches) == (1000, 1600, 1)


def test_a_step_of_very_many_rows_is_so_many_times_a_smaller_one() -> None:
    shape = RowLengths.of([100] * 50).lay(1_000_000, Slicing(10_000, is_packed=True))
    assert shape.real_tokens == pytest.approx(1_000_000, rel=0.01)
    assert shape.micro_batches == pytest.approx(100, abs=3)


def test_rows_are_cut() -> None:
    found = RowLengths.of([100, 200, 300, 400]).cut_to(250)
    assert (found.longest, found.total_tokens, found.count) == (250, 800, 4)
    assert found.cut_to(300) is found


def test_no_rows_are_an_error() -> None:
    with pytest.raises(DatasetError, match=r"there must be training rows, got none"):
        RowLengths.of([])
