from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.errors import TrainingError
from ft_pipeline.finetuning.schedule import Slicing, make_steps, slice_step

_LENGTHS = st.lists(st.integers(1, 600), min_size=1, max_size=120)


@given(_LENGTHS, st.integers(1, 3000), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_every_epoch_takes_each_row_once(lengths: list[int], batch_tokens: int, epochs: int, seed: int) -> None:
    if sum(lengths) * epochs < batch_tokens:
        with pytest.raises(TrainingError, match="must fill one optimizer step"):
            make_steps(lengths, batch_tokens, epochs, seed)
        return
    taken = [row for rows in make_steps(lengths, batch_tokens, epochs, seed) for row in rows]
    assert len(taken) == epochs * len(lengths)
    for epoch in range(epochs):
        assert sorted(taken[epoch * len(lengths) : (epoch + 1) * len(lengths)]) == list(range(len(lengths)))


@given(_LENGTHS, st.integers(600, 3000), st.integers(0, 2**32 - 1))
def test_steps_hold_nearly_equal_tokens(lengths: list[int], batch_tokens: int, seed: int) -> None:
    if sum(lengths) < batch_tokens:
        return
    steps = make_steps(lengths, batch_tokens, 1.0, seed)
    assert all(steps)
    mean = sum(lengths) / max(1, round(sum(lengths) / batch_tokens))
    assert all(abs(sum(lengths[row] for row in rows) - mean) <= 2 * max(lengths) for rows in steps)


def test_an_epoch_is_another_order_and_a_seed_another_one_too() -> None:
    lengths = [10] * 64
    first = make_steps(lengths, 160, 2, seed=1)
    assert first[:4] != first[4:]
    assert make_steps(lengths, 160, 2, seed=1) == first
    assert make_steps(lengths, 160, 2, seed=2) != first


def test_half_an_epoch_takes_half_of_the_tokens() -> None:
    steps = make_steps([10] * 100, 100, 1.5, seed=0)
    assert sum(len(rows) for rows in steps) == 150


@given(_LENGTHS, st.integers(1, 2000), st.booleans())
def test_micro_batches_hold_the_rows_of_the_step_and_stay_within_the_budget(
    lengths: list[int], tokens: int, is_packed: bool
) -> None:
    rows = tuple(range(len(lengths)))
    parts = slice_step(rows, lengths, Slicing(tokens, is_packed))
    assert sorted(row for part in parts for row in part) == list(rows)
    most = max(tokens, *lengths)
    for part in parts:
        counts = [lengths[row] for row in part]
        assert (sum(counts) if is_packed else max(counts) * len(counts)) <= most


def test_packed_micro_batches_of_a_step_are_nearly_equal() -> None:
    parts = slice_step(tuple(range(12)), [100] * 12, Slicing(500, is_packed=True))
    assert sorted(len(part) for part in parts) == [4, 4, 4]


def test_too_few_rows_say_what_would_do() -> None:
    with pytest.raises(TrainingError, match=r"got 2 rows of 30 tokens, 1.5 times.*to at most 45"):
        make_steps([10, 20], 64, 1.5, seed=0)
