"""Share of answers that reach the reference's final answer, however they get there.

Without a pattern it is the number after the first `####`, as in GSM8K (Cobbe et al. 2021), its grader, and the
strict match of lm-evaluation-harness: an answer without one is wrong, and what a model that does not stop goes on with
does not count. Thousands separators, a currency sign, a last period and trailing zeros are no difference. With a
pattern of the user's it is its last match, compared as a number where both are numbers. Rows whose reference has none
do not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.final_answer import check_answer_pattern, find_first, find_last, is_same_answer
from ft_pipeline.evaluation.metrics.metric import Metric

if TYPE_CHECKING:
    from ft_pipeline.evaluation.rows import ScoredRow

# Signs may stand before the currency or after it; blanks that hold a number together may stand in it.
_GSM8K = (
    r"####([ \t]*[-+−]?[ \t]*\p{Sc}?[ \t]*[-+−]?\.?\d(?:[\d.,]|[\u00a0\u202f\u2009](?=\d{3}))*"
    r"(?:[eE][-+−]?\d{1,4}(?!\w))?)"
)


def answer_match_metric(pattern: str | None = None) -> Metric:
    """The metric for one way to mark a final answer.

    Args:
        pattern: A regular expression of the `regex` package with one group at most; None: GSM8K's.

    Raises:
        EvaluationError: the pattern is no regular expression, or has several groups.
    """
    if pattern is not None:
        try:
            check_answer_pattern(pattern)
        except ValueError as err:
            raise EvaluationError(str(err)) from err

    def find(text: str) -> str | None:
        return find_first(_GSM8K, text) if pattern is None else find_last(pattern, text)

    def part(row: ScoredRow) -> float:
        wanted = find(row.row.reference)
        given = None if row.fault else find(row.prediction)
        return float(wanted is not None and given is not None and is_same_answer(given, wanted))

    def weight(row: ScoredRow) -> float:
        return float(row.row.check is None and find(row.row.reference) is not None)

    return Metric("final answer", "share", part=part, weight=weight)


ANSWER_MATCH = answer_match_metric()
