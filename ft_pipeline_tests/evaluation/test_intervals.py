from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.intervals import bootstrap_mean, bootstrap_paired_difference, bootstrap_ratio

values = st.lists(st.floats(-100, 100), min_size=1, max_size=60)
few = settings(max_examples=40, deadline=None)


@few
@given(values)
def test_an_interval_lies_between_the_least_and_the_greatest_value(sample: list[float]) -> None:
    interval = bootstrap_mean(sample)
    assert min(sample) - 1e-9 <= interval.low <= interval.high <= max(sample) + 1e-9


@few
@given(values, st.floats(-50, 50))
def test_a_shift_of_all_values_shifts_the_interval(sample: list[float], shift: float) -> None:
    moved = bootstrap_mean([value + shift for value in sample])
    assert moved.low == pytest.approx(bootstrap_mean(sample).low + shift, abs=1e-6)


@few
@given(values)
def test_the_difference_of_a_contestant_to_itself_is_zero(sample: list[float]) -> None:
    interval = bootstrap_paired_difference(sample, sample)
    assert (interval.low, interval.high) == (0, 0)


@few
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_swapping_the_contestants_turns_the_interval_over(pairs: list[tuple[bool, bool]]) -> None:
    ours, theirs = [float(our) for our, _ in pairs], [float(their) for _, their in pairs]
    there, back = bootstrap_paired_difference(ours, theirs), bootstrap_paired_difference(theirs, ours)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


@few
@given(values)
def test_is_the_same_every_time(sample: list[float]) -> None:
    assert bootstrap_mean(sample) == bootstrap_mean(sample)


def test_is_as_wide_as_the_normal_approximation_for_many_rows() -> None:
    sample = np.random.default_rng(1).binomial(1, 0.3, 2000).astype(float)
    interval = bootstrap_mean(sample.tolist())
    half = 1.96 * sample.std() / math.sqrt(sample.size)
    assert interval.low == pytest.approx(sample.mean() - half, abs=0.003)
    assert interval.high == pytest.approx(sample.mean() + half, abs=0.003)


def test_pairs_make_a_narrower_interval_than_their_two_means() -> None:
    base = np.random.default_rng(2).binomial(1, 0.5, 300).astype(float)
    better = base.copy()
    better[:15] = 1.0
    paired = bootstrap_paired_difference(better.tolist(), base.tolist())
    alone = bootstrap_mean(base.tolist())
    assert paired.high - paired.low < (alone.high - alone.low) / 2


def test_a_value_that_is_no_number_makes_an_interval_that_is_none() -> None:
    assert math.isnan(bootstrap_mean([1.0, math.nan]).low)


def test_refuses_unequal_pairs_and_rows_without_weight() -> None:
    with pytest.raises(EvaluationError, match="there are 1 and 2"):
        bootstrap_paired_difference([1.0], [1.0, 0.0])
    with pytest.raises(EvaluationError, match="one row at least that has weight"):
        bootstrap_ratio([1.0], [0.0])
