from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.intervals import Terms, compare, estimate

values = st.lists(st.floats(-100, 100), min_size=1, max_size=60)
few = settings(max_examples=40, deadline=None)


def mean_of(sample: npt.ArrayLike) -> Terms:
    parts = np.array(sample, np.float64)
    return Terms(parts, np.ones(len(parts)))


@few
@given(values)
def test_an_interval_lies_between_the_least_and_the_greatest_value(sample: list[float]) -> None:
    interval = estimate(mean_of(sample)).interval
    assert min(sample) - 1e-9 <= interval.low <= interval.high <= max(sample) + 1e-9


@few
@given(values, st.floats(-50, 50))
def test_a_shift_of_all_values_shifts_the_interval(sample: list[float], shift: float) -> None:
    moved = estimate(mean_of([value + shift for value in sample])).interval
    assert moved.low == pytest.approx(estimate(mean_of(sample)).interval.low + shift, abs=1e-6)


@few
@given(values)
def test_the_difference_of_a_contestant_to_itself_is_zero_and_no_surprise(sample: list[float]) -> None:
    difference = compare(mean_of(sample), mean_of(sample))
    assert (difference.value, difference.interval.low, difference.interval.high) == (0, 0, 0)
    assert difference.p_value == 1
    assert difference.is_tie


@few
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_swapping_the_contestants_turns_the_interval_over(pairs: list[tuple[bool, bool]]) -> None:
    ours, theirs = mean_of([our for our, _ in pairs]), mean_of([their for _, their in pairs])
    there, back = compare(ours, theirs), compare(theirs, ours)
    assert (there.interval.low, there.interval.high) == pytest.approx((-back.interval.high, -back.interval.low))
    assert there.p_value == back.p_value


@few
@given(values)
def test_is_the_same_every_time(sample: list[float]) -> None:
    assert estimate(mean_of(sample)) == estimate(mean_of(sample))


def test_is_as_wide_as_the_normal_approximation_for_many_rows() -> None:
    sample = np.random.default_rng(1).binomial(1, 0.3, 2000).astype(float)
    interval = estimate(mean_of(sample.tolist())).interval
    half = 1.96 * sample.std() / math.sqrt(sample.size)
    assert interval.low == pytest.approx(sample.mean() - half, abs=0.003)
    assert interval.high == pytest.approx(sample.mean() + half, abs=0.003)


def test_holds_the_true_mean_in_about_95_of_100_samples() -> None:
    generator = np.random.default_rng(4)
    held = [
        interval.low <= 0.3 <= interval.high
        for interval in (estimate(mean_of(generator.binomial(1, 0.3, 200))).interval for _ in range(200))
    ]
    assert 0.90 <= np.mean(held) <= 0.99


def test_pairs_make_a_narrower_interval_than_their_two_means() -> None:
    base = np.random.default_rng(2).binomial(1, 0.5, 300).astype(float)
    better = base.copy()
    better[:15] = 1.0
    paired, alone = compare(mean_of(better), mean_of(base)).interval, estimate(mean_of(base)).interval
    assert paired.high - paired.low < (alone.high - alone.low) / 2


@pytest.mark.parametrize(("won", "lost"), [(5, 0), (9, 1), (12, 8), (30, 10)])
def test_the_test_of_right_answers_is_the_exact_sign_test(won: int, lost: int) -> None:
    ours = [1.0] * won + [0.0] * lost + [1.0] * 50
    theirs = [0.0] * won + [1.0] * lost + [1.0] * 50
    n, least = won + lost, min(won, lost)
    exact = min(1.0, 2 * sum(math.comb(n, k) for k in range(least + 1)) / 2**n)
    assert compare(mean_of(ours), mean_of(theirs)).p_value == pytest.approx(exact, abs=0.03)


def test_differences_by_chance_are_called_significant_in_about_5_of_100_cases() -> None:
    generator = np.random.default_rng(5)
    found = [
        compare(mean_of(generator.normal(size=60)), mean_of(generator.normal(size=60))).p_value for _ in range(200)
    ]
    assert 0.01 <= np.mean(np.array(found) <= 0.05) <= 0.10


def test_a_figure_that_is_brought_into_its_unit_keeps_its_interval_around_it() -> None:
    generator = np.random.default_rng(6)
    tokens = generator.integers(5, 30, 100).astype(float)
    terms = Terms(tokens * generator.normal(1.2, 0.1, 100), tokens)
    found = estimate(terms, math.exp)
    assert found.value == pytest.approx(math.exp(terms.parts.sum() / tokens.sum()))
    assert found.interval.low < found.value < found.interval.high
    worse = compare(Terms(terms.parts + 0.1 * tokens, tokens), terms, math.exp)
    assert worse.value == pytest.approx(found.value * (math.exp(0.1) - 1))
    assert worse.interval.low > 0
    assert worse.p_value < 0.01


def test_rows_without_weight_say_nothing() -> None:
    sparse = Terms(np.array([1.0, 0.0, 0.0, 0.0]), np.array([1.0, 1.0, 0.0, 0.0]))
    assert estimate(sparse).value == 0.5


def test_a_value_that_is_no_number_makes_an_interval_that_is_none_and_no_tie() -> None:
    broken = mean_of([1.0, math.nan])
    assert math.isnan(estimate(broken).interval.low)
    assert not compare(broken, mean_of([1.0, 1.0])).is_tie


def test_refuses_unequal_pairs_and_rows_without_weight() -> None:
    with pytest.raises(EvaluationError, match="there are 1 and 2"):
        compare(mean_of([1.0]), mean_of([1.0, 0.0]))
    with pytest.raises(EvaluationError, match="one row at least that has weight"):
        estimate(Terms(np.array([1.0]), np.array([0.0])))
