"""Share of answers that are a JSON object or array, whichever the reference is, among the rows where it is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft_pipeline.evaluation.metrics.json_text import is_json
from ft_pipeline.evaluation.metrics.metric import Metric

if TYPE_CHECKING:
    from ft_pipeline.evaluation.rows import ScoredRow


def wants_json(row: ScoredRow) -> bool:
    """Whether the reference is a JSON object or array, and the only right answer."""
    reference = row.row.reference
    return row.row.check is None and reference.lstrip().startswith(("{", "[")) and is_json(reference)


def gives_json(row: ScoredRow) -> bool:
    """Whether the answer is JSON, and an object where the reference is one, an array where that is one."""
    if row.fault or not is_json(row.prediction):
        return False
    return row.prediction.lstrip()[:1] == row.row.reference.lstrip()[:1]


JSON_VALID = Metric(
    "valid JSON",
    "share",
    part=lambda row: float(gives_json(row)),
    weight=lambda row: float(wants_json(row)),
)
