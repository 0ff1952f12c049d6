"""The figures that Dagster charts from run to run. Names hang on the recipe's metrics and sets, not on the results."""

from __future__ import annotations

from ft_pipeline.evaluation.figures import keep_finite
from ft_pipeline.evaluation.report.outcome import Outcome
from ft_pipeline.evaluation.report.verdict import explain_verdict
from ft_pipeline.evaluation.rules import GENERAL, HELD_OUT
from ft_pipeline.evaluation.scores import ContestantResult
from ft_pipeline.summary import Scalar


def summary_figures(outcome: Outcome) -> dict[str, Scalar]:
    """The verdict and the gated challenger's figures.

    `exact_match` is his on held-out rows, `exact_match_champion` the opponent's (`_base`, before there is a champion);
    `exact_match_difference` and `exact_match_p` compare the two. `exact_match@other` is his on another set. `general`
    and `general_base` are the shares of general questions that pass.
    """
    board, costs = outcome.board, outcome.board.gated.costs
    figures: dict[str, Scalar] = {
        "publish": outcome.verdict.publish,
        "is_best": outcome.verdict.is_best,
        "verdict": explain_verdict(outcome),
        "rows": len(board.gated.sets.get(HELD_OUT, ())),
    }
    for name in board.find_metrics(HELD_OUT):
        figures |= _compare_figures(outcome, name, HELD_OUT, name, board.opponent)
    for set_name in outcome.asked_sets:
        metric = outcome.find_main_metric(set_name)
        if metric and set_name != HELD_OUT:
            figures[f"{metric}@{set_name}"] = _find(outcome, board.gated, set_name, metric)
    if metric := outcome.find_main_metric(GENERAL):
        figures |= _compare_figures(outcome, GENERAL, GENERAL, metric, board.find_rival("base"))
    measured = {name: getattr(costs, name) for name in ("size_bytes", "memory_bytes", "tokens_per_second")}
    figures |= {name: value if isinstance(value, int) else keep_finite(value) for name, value in measured.items()}
    return figures | {"first_token_seconds": keep_finite(costs.first_token_seconds)}


def _compare_figures(
    outcome: Outcome, name: str, set_name: str, metric: str, rival: ContestantResult | None
) -> dict[str, Scalar]:
    figures: dict[str, Scalar] = {name: _find(outcome, outcome.board.gated, set_name, metric)}
    if rival:
        figures[f"{name}_{rival.contestant.role}"] = _find(outcome, rival, set_name, metric)
        if difference := outcome.board.compare(outcome.board.gated, rival, set_name, metric):
            figures[f"{name}_difference"] = keep_finite(difference.value)
            figures[f"{name}_p"] = keep_finite(difference.p_value)
    return figures


def _find(outcome: Outcome, result: ContestantResult, set_name: str, metric: str) -> float | None:
    found = outcome.board.estimate(result, set_name, metric)
    return None if found is None else keep_finite(found.value)
