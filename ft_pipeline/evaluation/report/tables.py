"""The report's figures as plain tables: for its JSON and for Dagster. What is no number is None."""

from __future__ import annotations

from dataclasses import fields

from ft_pipeline.evaluation.figures import keep_finite
from ft_pipeline.evaluation.intervals import Difference, Estimate
from ft_pipeline.evaluation.report.fidelity import find_fidelity
from ft_pipeline.evaluation.report.forgetting import find_forgetting
from ft_pipeline.evaluation.report.outcome import Outcome
from ft_pipeline.evaluation.report.samples import choose_samples
from ft_pipeline.summary import Scalar
from ft_pipeline.text_marks import show_plain

Table = list[dict[str, Scalar]]
_SAMPLE_ROWS, _SAMPLE_CHARS = 8, 200


def summary_tables(outcome: Outcome) -> dict[str, Table]:
    """The tables that Dagster shows; one that has no rows is empty."""
    return {
        "scores": challenger_table(outcome),
        "gate": gate_table(outcome),
        "fidelity": fidelity_table(outcome),
        "forgetting": forgetting_table(outcome),
        "costs": cost_table(outcome),
        "samples": sample_table(outcome),
    }


def challenger_table(outcome: Outcome) -> Table:
    """One row for each set and metric: the gated challenger, its opponent, and how they differ."""
    board = outcome.board
    table: Table = []
    for set_name in board.set_names:
        for name in board.find_metrics(set_name):
            theirs = board.estimate(board.opponent, set_name, name) if board.opponent else None
            difference = board.compare(board.gated, board.opponent, set_name, name) if board.opponent else None
            table.append(
                {
                    "set": set_name,
                    "metric": name,
                    **describe_estimate("challenger", board.estimate(board.gated, set_name, name)),
                    "opponent": _keep(theirs.value if theirs else None),
                    **describe_difference("difference", difference),
                }
            )
    return table


def score_table(outcome: Outcome) -> Table:
    """One row for each set, metric and contestant; of the gated one also the difference to its opponent."""
    board = outcome.board
    table: Table = []
    for set_name in board.set_names:
        for name in board.find_metrics(set_name):
            for result in board.results:
                rival = board.opponent if result is board.gated else None
                difference = board.compare(result, rival, set_name, name) if rival else None
                table.append(
                    {
                        "set": set_name,
                        "metric": name,
                        "contestant": result.label,
                        "rows": len(result.sets.get(set_name, ())),
                        **describe_estimate("", board.estimate(result, set_name, name)),
                        **describe_difference("difference", difference),
                    }
                )
    return table


def gate_table(outcome: Outcome) -> Table:
    """One row for each rule of the gate."""
    return [
        {
            "rule": result.rule.text,
            "name": result.rule.name,
            "passed": result.passed,
            "value": keep_finite(result.value),
            "limit": keep_finite(result.rule.limit),
            "on_failure": result.rule.on_failure,
            **describe_difference("difference", result.difference),
            "detail": show_plain(result.detail),
        }
        for result in outcome.verdict.results
    ]


def fidelity_table(outcome: Outcome) -> Table:
    """One row for each file that was compared with the 16-bit model, the largest first."""
    return [
        {
            "contestant": one.result.label,
            "size_bytes": one.result.costs.size_bytes,
            "tokens": one.tokens,
            **describe_estimate("kld", one.divergence),
            "kld_max": keep_finite(one.largest),
            **describe_estimate("top_agreement", one.agreement),
            **describe_estimate("perplexity_ratio", one.ratio),
        }
        for one in find_fidelity(outcome.board)
    ]


def forgetting_table(outcome: Outcome) -> Table:
    """One row for all general questions, and one for each tag."""
    forgetting = find_forgetting(outcome.board)
    return [
        {
            "questions": change.name,
            "rows": change.rows,
            "base": keep_finite(change.before),
            "challenger": keep_finite(change.now),
            **describe_difference("change", change.difference),
        }
        for change in (forgetting.changes if forgetting else ())
    ]


def cost_table(outcome: Outcome) -> Table:
    """One row for each contestant."""
    return [
        {"contestant": result.label}
        | {
            field.name: keep_finite(value) if isinstance(value, float) else value
            for field in fields(result.costs)
            for value in [getattr(result.costs, field.name)]
        }
        for result in outcome.board.results
    ]


def sample_table(outcome: Outcome) -> Table:
    """The worst rows: the last message of the prompt, the reference, and everybody's answer, cut to 200 characters."""
    table: Table = []
    for sample in choose_samples(outcome, _SAMPLE_ROWS):
        key = sample.row.set_name, sample.row.number
        found = {result.label: outcome.answers[result.label].get(key) for result in outcome.board.results}
        record: dict[str, Scalar] = {
            "set": sample.row.set_name,
            "row": sample.row.number + 1,
            "right": sample.is_right,
            "prompt": show_plain(sample.row.prompt[-1]["content"], _SAMPLE_CHARS),
            "reference": show_plain(sample.row.reference, _SAMPLE_CHARS),
        }
        for label, scored in found.items():
            record[label] = show_plain(scored.prediction or scored.fault, _SAMPLE_CHARS) if scored else None
        table.append(record)
    return table


def describe_estimate(name: str, estimate: Estimate | None) -> dict[str, Scalar]:
    """A figure as `name`, `name_low` and `name_high`; without a name as value, low and high."""
    value, low, high = (
        (estimate.value, estimate.interval.low, estimate.interval.high) if estimate else (None, None, None)
    )
    before = f"{name}_" if name else ""
    return {name or "value": _keep(value), f"{before}low": _keep(low), f"{before}high": _keep(high)}


def describe_difference(name: str, difference: Difference | None) -> dict[str, Scalar]:
    """A difference as `name`, `name_low`, `name_high` and `name_p`."""
    estimate = Estimate(difference.value, difference.interval) if difference else None
    return describe_estimate(name, estimate) | {f"{name}_p": _keep(difference.p_value if difference else None)}


def _keep(value: float | None) -> float | None:
    return None if value is None else keep_finite(value)
