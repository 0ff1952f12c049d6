"""What the metrics have in common that hold an answer against its reference.

A row that was not put to the model is wrong. One that has a check has many right answers, and the reference is but one
of them: only `passed_checks` judges it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ft_pipeline.evaluation.rows import ScoredRow


def has_one_answer(row: ScoredRow) -> float:
    """The weight of a row in them: 1 where the reference is what is wanted."""
    return float(row.row.check is None)


def compare_texts(measure: Callable[[str, str], float]) -> Callable[[ScoredRow], float]:
    """A metric's part, by a measure of (answer, reference) from 0 to 1."""

    def part(row: ScoredRow) -> float:
        return 0.0 if row.fault else measure(row.prediction, row.row.reference)

    return part
