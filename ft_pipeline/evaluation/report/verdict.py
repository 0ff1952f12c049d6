"""The verdict in words and in a few figures."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ft_pipeline.evaluation.figures import (
    format_change,
    format_change_interval,
    format_figure,
    format_interval,
    format_metric,
    format_size,
)
from ft_pipeline.evaluation.gate import GateResult
from ft_pipeline.evaluation.intervals import Difference, Estimate
from ft_pipeline.evaluation.metrics import Metric
from ft_pipeline.evaluation.report.outcome import Outcome
from ft_pipeline.evaluation.rules import HELD_OUT
from ft_pipeline.text_marks import show_plain

_MOST_TILES = 8


@dataclass(frozen=True)
class Tile:
    """One figure of the challenger.

    Attributes:
        beside: Under it: the opponent's, and the difference.
    """

    title: str
    value: str
    beside: tuple[str, ...]


def explain_verdict(outcome: Outcome) -> str:
    """Why the challenger is published or not, in plain sentences with the figures.

    They go to terminals and to Dagster too: of users' titles, what cannot be seen is written out.
    """
    verdict = outcome.verdict
    sentences = [_tell_comparison(outcome, result) for result in verdict.deciding]
    others = [result for result in verdict.refusals if result not in verdict.deciding]
    warnings = [result for result in verdict.results if not result.passed and result.rule.on_failure == "warn"]
    if others:
        sentences.append(f"It breaks the gate: {'; '.join(_describe(outcome, result) for result in others)}.")
    elif verdict.publish and not warnings:
        sentences.append("It keeps every rule of the gate.")
    if warnings:
        found = "; ".join(_describe(outcome, result) for result in warnings)
        sentences.append(f"A warning: {found}.")
    said = " ".join(sentence[:1].upper() + sentence[1:] for sentence in sentences)
    return show_plain(" ".join(said.split()))


def _tell_comparison(outcome: Outcome, result: GateResult) -> str:
    """Whether the challenger is better than what runs today."""
    board, rule = outcome.board, result.rule
    opponent, gated = board.opponent, board.gated.label
    if result.difference is None or opponent is None:
        return f"{gated} cannot be compared with what runs today: {result.detail}."
    change, interval, p_value = show_difference(outcome, rule.measure, result.difference)
    figures = ", ".join(part for part in (f"95 % interval {interval}" if interval else "", p_value) if part)
    where = f"{board.metrics[rule.measure].title} {change or 'no number'}{_name_rows(rule.set_name)}"
    if result.difference.is_tie:
        kept = "the recipe prefers the newer" if result.passed else f"the {opponent.contestant.role} stays"
        return f"{gated} is level with {opponent.label}: {where} ({figures}); {kept}."
    is_worse = (result.difference.value < 0) == rule.wants_more
    word = "better" if result.passed else "worse" if is_worse else "not better enough"
    return f"{gated} is {word} than {opponent.label}: {where} ({figures})."


def _describe(outcome: Outcome, result: GateResult) -> str:
    """What a broken rule found and asked."""
    rule, metrics = result.rule, outcome.board.metrics
    if math.isnan(result.value):
        return result.detail
    title = metrics[rule.measure].title if rule.measure in metrics else rule.measure.replace("_", " ")
    where = _name_rows(rule.set_name) if rule.measure in metrics else ""
    rival = f" against {rule.rival}" if rule.rival else ""
    return f"{title}{where} {show_found(outcome, result)}{rival}, asked {show_asked(outcome, result)}"


def _name_rows(set_name: str) -> str:
    return " on held-out rows" if set_name == HELD_OUT else f" on {set_name} rows"


def name_state(result: GateResult) -> str:
    """Whether a rule is kept."""
    return "passed" if result.passed else "warning" if result.rule.on_failure == "warn" else "failed"


def show_found(outcome: Outcome, result: GateResult) -> str:
    """The value that a rule was judged by, in its unit."""
    if math.isnan(result.value):
        return "–"
    measure, metrics = result.rule.measure, outcome.board.metrics
    if result.difference is None or measure not in metrics:
        return format_figure(measure, metrics, result.value)
    return format_change(measure, metrics, result.value)


def show_asked(outcome: Outcome, result: GateResult) -> str:
    """The limit of a rule, in its unit."""
    rule, metrics = result.rule, outcome.board.metrics
    operator = rule.operator.replace(">=", "≥").replace("<=", "≤")
    if rule.rival is None:
        return f"{operator} {format_figure(rule.measure, metrics, rule.limit)}"
    limit = format_change(rule.measure, metrics, rule.limit) if rule.limit and rule.measure in metrics else "0"
    return f"{operator} {limit}"


def show_difference(outcome: Outcome, metric: str, difference: Difference) -> tuple[str, str, str]:
    """A difference, its interval and its p-value; empty where they are no numbers."""
    metrics, ends = outcome.board.metrics, (difference.interval.low, difference.interval.high)
    change = format_change(metric, metrics, difference.value) if math.isfinite(difference.value) else ""
    interval = format_change_interval(metric, metrics, difference.interval) if all(map(math.isfinite, ends)) else ""
    p_value = difference.p_value
    shown = "" if math.isnan(p_value) else "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
    return change, interval, shown


def show_estimate(metric: Metric, estimate: Estimate | None) -> tuple[str, str]:
    """A figure and its interval, which is empty where it is no number."""
    if estimate is None:
        return "–", ""
    ends = estimate.interval.low, estimate.interval.high
    interval = format_interval(metric, estimate.interval) if all(map(math.isfinite, ends)) else ""
    return format_metric(metric, estimate.value), interval


def make_tiles(outcome: Outcome) -> list[Tile]:
    """The figures that matter most, and the size of the file."""
    tiles = [_make_tile(outcome, *chosen) for chosen in outcome.choose_figures()[: _MOST_TILES - 1]]
    gated = outcome.board.gated
    return [*tiles, Tile("File", format_size(gated.costs.size_bytes), (gated.contestant.quantization,))]


def _make_tile(outcome: Outcome, set_name: str, name: str) -> Tile:
    board = outcome.board
    metric, opponent = board.metrics[name], board.opponent
    title = metric.title if set_name == HELD_OUT else f"{metric.title}, {set_name}"
    ours = board.estimate(board.gated, set_name, name)
    beside = []
    if opponent and (theirs := board.estimate(opponent, set_name, name)):
        beside.append(f"{opponent.contestant.role} {format_metric(metric, theirs.value)}")
    if opponent and (difference := board.compare(board.gated, opponent, set_name, name)):
        change, interval, _ = show_difference(outcome, name, difference)
        beside += [change, interval]
    title = show_plain(title[:1].upper() + title[1:])
    return Tile(title, format_metric(metric, ours.value) if ours else "–", tuple(filter(None, beside)))
