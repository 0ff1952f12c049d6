"""What a metric is: a ratio of two sums over rows.

Nothing heavy is imported here or beside: the recipe takes the names of the metrics from `METRICS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ft_pipeline.evaluation.rows import ScoredRow

# task: is the answer right; answers: what answers are like; likelihood: of the references; fidelity: to the 16-bit
# model.
Family = Literal["task", "answers", "likelihood", "fidelity"]


def identity(value: float) -> float:
    """The value itself."""
    return value


def _one(_row: ScoredRow) -> float:
    return 1.0


@dataclass(frozen=True)
class Metric:
    """`transform(sum(part) / sum(weight))` over rows, so that every metric has an interval. A mean has weight 1.

    Attributes:
        title: Name for people.
        unit: "share" is shown as a percentage, "number" as it is.
        part: A row's term of the upper sum.
        weight: A row's term of the lower sum; 0 where the metric says nothing of the row: its `part` is not asked.
        transform: Rises with its argument.
        better: Whether higher or lower values are, or neither.
        family: What it is about; tables are grouped by it.
    """

    title: str
    unit: Literal["share", "number"]
    part: Callable[[ScoredRow], float]
    weight: Callable[[ScoredRow], float] = _one
    transform: Callable[[float], float] = identity
    better: Literal["higher", "lower", "neither"] = "higher"
    family: Family = "task"
