"""Bootstrap intervals: how far a figure might lie elsewhere on other rows of the same kind.

Percentile bootstrap over rows (Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13). The difference
of two contestants is resampled in pairs, because both answered the same rows (Koehn 2004, Statistical Significance
Tests for Machine Translation Evaluation). Rows that all agree give an interval of no width, however few they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ft_pipeline.errors import EvaluationError

_RESAMPLES = 2000
_SEED = 3407
_TAIL_PERCENT = 2.5


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


def bootstrap_mean(values: Sequence[float]) -> Interval:
    """95 % interval of the mean of `values`.

    Raises:
        EvaluationError: there are no values.
    """
    return bootstrap_ratio(values, np.ones(len(values)))


def bootstrap_paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """95 % interval of mean(ours) - mean(theirs), where the values at one place belong to one row.

    Raises:
        EvaluationError: there are no values, or not equally many.
    """
    if len(ours) != len(theirs):
        raise EvaluationError(f"paired values must be equally many; there are {len(ours)} and {len(theirs)}")
    return bootstrap_mean(np.subtract(ours, theirs).tolist())


def bootstrap_ratio(parts: Sequence[float], weights: Sequence[float] | npt.NDArray[np.float64]) -> Interval:
    """95 % interval of sum(parts) / sum(weights), both resampled row by row; NaN if a part is not finite.

    Raises:
        EvaluationError: there are no values, or no weight.
    """
    part, weight = np.asarray(parts, np.float64), np.asarray(weights, np.float64)
    if not part.size or not weight.sum() > 0:
        raise EvaluationError("an interval needs one row at least that has weight")
    if not np.isfinite(part).all():
        return Interval(math.nan, math.nan)
    # Sums over a resample need only how often each row was drawn: (resamples, rows) counts times the rows' values.
    counts = np.random.default_rng(_SEED).multinomial(part.size, np.full(part.size, 1 / part.size), size=_RESAMPLES)
    totals = counts @ weight
    drawn = totals > 0
    ratios = (counts @ part)[drawn] / totals[drawn]
    low, high = np.percentile(ratios, [_TAIL_PERCENT, 100 - _TAIL_PERCENT])
    return Interval(float(low), float(high))
