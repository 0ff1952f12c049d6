"""Share of answers that pass their row's check, among the rows that have one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft_pipeline.evaluation.metrics.metric import Metric

if TYPE_CHECKING:
    from ft_pipeline.evaluation.rows import ScoredRow


def passes_check(row: ScoredRow) -> bool:
    """Whether the row has a check and its answer passes."""
    return row.row.check is not None and not row.fault and row.row.check.passes(row.prediction)


PASSED_CHECKS = Metric(
    "passed checks",
    "share",
    part=lambda row: float(passes_check(row)),
    weight=lambda row: float(row.row.check is not None),
)
