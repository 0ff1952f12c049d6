"""What a metric is: a ratio of two sums over rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.intervals import Interval, bootstrap_ratio
from ft_pipeline.evaluation.rows import ScoredRow


def _identity(value: float) -> float:
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
        weight: A row's term of the lower sum.
        transform: Rises with its argument.
    """

    title: str
    unit: Literal["share", "number"]
    part: Callable[[ScoredRow], float]
    weight: Callable[[ScoredRow], float] = _one
    transform: Callable[[float], float] = _identity

    def __call__(self, rows: Sequence[ScoredRow]) -> float:
        """The metric over rows.

        Raises:
            EvaluationError: there are no rows, or none has weight.
        """
        weight = sum(map(self.weight, rows))
        if not weight > 0:
            raise EvaluationError(
                f"{self.title} needs rows to be taken over; there are {len(rows)}, of weight {weight:g}"
            )
        return self.transform(sum(map(self.part, rows)) / weight)

    def interval(self, rows: Sequence[ScoredRow]) -> Interval:
        """Its 95 % interval.

        Raises:
            EvaluationError: as for the metric itself.
        """
        mean = bootstrap_ratio([self.part(row) for row in rows], [self.weight(row) for row in rows])
        return Interval(self.transform(mean.low), self.transform(mean.high))
