"""What was wrong: fields by their name, answers by the kind of their error."""

from __future__ import annotations

from collections.abc import Sequence

from ft_pipeline.evaluation.metrics import METRICS
from ft_pipeline.evaluation.metrics.json_fields import compare_row
from ft_pipeline.evaluation.metrics.json_valid import gives_json, wants_json
from ft_pipeline.evaluation.metrics.metric import Metric
from ft_pipeline.evaluation.metrics.passed_checks import passes_check
from ft_pipeline.evaluation.metrics.refusals import is_refusal
from ft_pipeline.evaluation.metrics.repetition import ends_in_loop
from ft_pipeline.evaluation.rows import ScoredRow

# In the order in which they are looked for: the first that fits is the row's.
ERROR_KINDS = (
    "not asked",  # the row could not be put to the model
    "empty",
    "repeats itself",  # ends in a loop
    "never stopped",  # cut at the limit of new tokens
    "refusal",
    "invalid JSON",
    "wrong fields",  # JSON, but not with the reference's values
    "wrong answer",  # another final answer, or the row's check fails
    "right, but other text",  # the reference's fields or final answer, in other words
    "other text",
)


def json_field_accuracy(rows: Sequence[ScoredRow]) -> dict[str, tuple[int, int]]:
    """How often each field of the references was right, and was wanted, by its dotted path in order of appearance."""
    counts: dict[str, tuple[int, int]] = {}
    for row in rows:
        for path, is_right in compare_row(row)[0]:
            right, wanted = counts.get(path, (0, 0))
            counts[path] = right + is_right, wanted + 1
    # A lone surrogate, which JSON can escape, could not be written into the report.
    return {path.encode("utf-8", "backslashreplace").decode(): count for path, count in counts.items()}


def classify_error(row: ScoredRow, answer_match: Metric = METRICS["answer_match"]) -> str | None:
    """The row's kind of error, one of `ERROR_KINDS`; None where it is exact, or passes its check.

    Args:
        answer_match: The metric of final answers, where the recipe has a pattern of its own.
    """
    if row.fault:
        return "not asked"
    if passes_check(row) if row.row.check else row.exact:
        return None
    return _classify_form(row) or _classify_content(row, answer_match)


def _classify_form(row: ScoredRow) -> str | None:
    if not row.prediction.strip():
        return "empty"
    if METRICS["repetition"].weight(row) and ends_in_loop(row.prediction):
        return "repeats itself"
    if not row.stopped:
        return "never stopped"
    if METRICS["refusals"].weight(row) and is_refusal(row.prediction):
        return "refusal"
    return None


def _classify_content(row: ScoredRow, answer_match: Metric) -> str:
    if row.row.check:
        return "wrong answer"
    if wants_json(row):
        if not gives_json(row):
            return "invalid JSON"
        fields, too_many = compare_row(row)
        is_right = bool(fields) and all(right for _, right in fields) and not too_many
        return "right, but other text" if is_right else "wrong fields"
    if answer_match.weight(row):
        return "right, but other text" if answer_match.part(row) else "wrong answer"
    return "other text"
