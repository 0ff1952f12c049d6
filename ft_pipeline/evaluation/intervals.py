"""How far a figure might lie elsewhere on other rows of the same kind, and whether a difference may be chance.

Percentile bootstrap over rows (Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13). The difference
of two contestants is resampled in pairs, because both answered the same rows (Koehn 2004, Statistical Significance
Tests for Machine Translation Evaluation). The test of a difference is approximate randomization: the two change
places on random rows (Noreen 1989, Computer-Intensive Methods for Testing Hypotheses). Rows that all agree give an
interval of no width, however few they are, which is why a difference must stand both.

Every figure here is a ratio of two sums over rows, `sum(parts) / sum(weights)`, brought into its unit by a function
that rises with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.metrics.metric import identity

_RESAMPLES = 2000
_SEED = 3407
_TAIL_PERCENT = 2.5
SIGNIFICANCE = 0.05
# Resamples at a time: their counts are kept in bytes and summed in 64 bits.
_CHUNK = 200

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.uint16]
Transform = Callable[[float], float]


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Difference:
    """One contestant's figure minus another's on the same rows.

    Attributes:
        p_value: How often a difference as large arises where it is chance who gave which answer; two-sided.
    """

    value: float
    interval: Interval
    p_value: float

    @property
    def is_tie(self) -> bool:
        """It may be chance: the interval includes zero, or the test finds nothing.

        Of few rows that differ the bootstrap is too sure: four that one won and none that the other did give an
        interval above zero, and p = 0.12.
        """
        return self.interval.low <= 0 <= self.interval.high or self.p_value >= SIGNIFICANCE


@dataclass(frozen=True)
class Terms:
    """What each row adds to a figure's two sums.

    Attributes:
        parts: Shape (rows,).
        weights: Shape (rows,); 0 for a row that the figure says nothing of.
    """

    parts: Array
    weights: Array

    @property
    def has_weight(self) -> bool:
        """There is something to take the figure from."""
        return bool(self.weights.sum() > 0)


def estimate(terms: Terms, transform: Transform = identity) -> Estimate:
    """A figure and its 95 % bootstrap interval; the interval is NaN if a row's part is not finite.

    Raises:
        EvaluationError: no row has weight.
    """
    _require_weight(terms)
    value = transform(float(terms.parts.sum() / terms.weights.sum()))
    if not np.isfinite(terms.parts).all():
        return Estimate(value, Interval(math.nan, math.nan))
    # Sums over a resample need only how often each row was drawn: (resamples, rows) counts times the rows' values.
    interval = _cut_tails(_ratios(_draw_counts(len(terms.parts)), terms))
    return Estimate(value, Interval(transform(interval.low), transform(interval.high)))


def compare(ours: Terms, theirs: Terms, transform: Transform = identity) -> Difference:
    """The difference of two figures over the same rows, with its paired interval and test.

    Raises:
        EvaluationError: the rows are not equally many, or none has weight.
    """
    if len(ours.parts) != len(theirs.parts):
        raise EvaluationError(f"paired rows must be equally many; there are {len(ours.parts)} and {len(theirs.parts)}")
    for terms in (ours, theirs):
        _require_weight(terms)
    values = [transform(float(terms.parts.sum() / terms.weights.sum())) for terms in (ours, theirs)]
    value = values[0] - values[1]
    if not (np.isfinite(ours.parts).all() and np.isfinite(theirs.parts).all()):
        return Difference(value, Interval(math.nan, math.nan), math.nan)
    counts, into = _draw_counts(len(ours.parts)), np.vectorize(transform, otypes=[np.float64])
    with np.errstate(invalid="ignore", over="ignore"):
        interval = _cut_tails(into(_ratios(counts, ours)) - into(_ratios(counts, theirs)))
        return Difference(value, interval, _randomize(ours, theirs, into, value))


def _cut_tails(drawn: Array) -> Interval:
    """The middle 95 % of the resamples that are numbers; NaN where none is."""
    finite = drawn[np.isfinite(drawn)]
    if not finite.size:
        return Interval(math.nan, math.nan)
    low, high = np.percentile(finite, [_TAIL_PERCENT, 100 - _TAIL_PERCENT])
    return Interval(float(low), float(high))


def _randomize(ours: Terms, theirs: Terms, into: Callable[[Array], Array], value: float) -> float:
    if not math.isfinite(value):
        return math.nan
    swapped = _draw_swaps(len(ours.parts))
    parts, weights = (
        _sum_drawn(swapped, t - o) for o, t in ((ours.parts, theirs.parts), (ours.weights, theirs.weights))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        first = (ours.parts.sum() + parts) / (ours.weights.sum() + weights)
        second = (theirs.parts.sum() - parts) / (theirs.weights.sum() - weights)
    differences = into(first) - into(second)
    # A hair's breadth for sums that are equal but for the order of their terms.
    as_large = np.abs(differences) >= abs(value) - 1e-12 * max(1.0, abs(value))
    return float((1 + as_large.sum()) / (1 + _RESAMPLES))


def _ratios(counts: Counts, terms: Terms) -> Array:
    """The figure of each resample; NaN where none of the rows drawn has weight."""
    weights = _sum_drawn(counts, terms.weights)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratios: Array = np.where(weights > 0, _sum_drawn(counts, terms.parts) / weights, np.nan)
    return ratios


def _sum_drawn(counts: Counts, values: Array) -> Array:
    """Each resample's sum, shape (resamples,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        sums = [counts[at : at + _CHUNK].astype(np.float64) @ values for at in range(0, len(counts), _CHUNK)]
    return np.concatenate(sums)


@lru_cache(maxsize=2)
def _draw_counts(rows: int) -> Counts:
    """How often each row is drawn in each resample, shape (resamples, rows): the same for all figures over them."""
    generator = np.random.default_rng(_SEED)
    chunks = [generator.multinomial(rows, np.full(rows, 1 / rows), size=_CHUNK) for _ in range(_RESAMPLES // _CHUNK)]
    return np.concatenate([chunk.astype(np.uint16) for chunk in chunks])


@lru_cache(maxsize=2)
def _draw_swaps(rows: int) -> Counts:
    """Whether two contestants change places on each row, shape (resamples, rows)."""
    return np.random.default_rng(_SEED).integers(0, 2, (_RESAMPLES, rows), dtype=np.uint16)


def _require_weight(terms: Terms) -> None:
    if not terms.has_weight:
        raise EvaluationError("a figure needs one row at least that has weight")
