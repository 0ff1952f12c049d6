"""The gate: what the challenger must reach before it is published."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ft_pipeline.evaluation.figures import format_points, format_share
from ft_pipeline.evaluation.intervals import bootstrap_paired_difference
from ft_pipeline.evaluation.rows import HELD_OUT
from ft_pipeline.evaluation.scores import ContestantResult, Estimate, Scoreboard
from ft_pipeline.recipe import GateSection


@dataclass(frozen=True)
class GateResult:
    """One rule, and whether the challenger keeps it.

    Attributes:
        value: What was found; NaN where there was nothing to find it from, which never passes.
        limit: What was asked.
        blocking: What comes after must not run if the rule is broken.
        detail: One sentence with the figures.
    """

    name: str
    value: float
    limit: float
    passed: bool
    blocking: bool
    detail: str


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger is published, and by which rules."""

    publish: bool
    results: tuple[GateResult, ...]

    @property
    def broken(self) -> tuple[GateResult, ...]:
        """The rules that were not kept."""
        return tuple(result for result in self.results if not result.passed)


def judge(board: Scoreboard, gate: GateSection) -> Verdict:
    """Apply the recipe's rules to the gated challenger."""
    results = (*_judge_minimums(board.gated, gate), judge_difference(board, gate))
    return Verdict(all(result.passed for result in results), results)


def judge_difference(board: Scoreboard, gate: GateSection) -> GateResult:
    """Is the challenger better than what it is compared with, by the paired interval of exact match on held-out rows?

    An interval that includes zero is a tie, which `gate.tie` decides; one below zero never passes.
    """
    difference = find_difference(board)
    interval, rival = difference.interval, board.opponent.label
    found = (
        f"by {format_points(difference.value)} points of exact match "
        f"(95 % interval {format_points(interval.low)} to {format_points(interval.high)})"
    )
    tied = interval.low <= 0 <= interval.high
    passed = interval.low > 0 or (tied and gate.tie == "challenger")
    if tied:
        detail = f"level with {rival}, from which it differs {found}; the recipe gives a tie to the {gate.tie}"
    else:
        detail = f"{'better' if passed else 'worse'} than {rival} {found}"
    name = f"beats_{board.opponent.contestant.role}"
    return GateResult(name, interval.low, 0.0, passed, blocking=False, detail=detail)


def find_difference(board: Scoreboard) -> Estimate:
    """The challenger's exact match minus its opponent's, on the held-out rows, with the paired 95 % interval."""
    ours, theirs = ([float(row.exact) for row in result.sets[HELD_OUT]] for result in (board.gated, board.opponent))
    value = (sum(ours) - sum(theirs)) / len(ours)
    return Estimate(value, bootstrap_paired_difference(ours, theirs))


def _judge_minimums(gated: ContestantResult, gate: GateSection) -> Iterator[GateResult]:
    yield _at_least("exact_match", _value(gated, HELD_OUT, "exact_match"), gate.min_exact_match, "held-out rows")
    yield _at_least("stop_rate", _value(gated, HELD_OUT, "stop_rate"), gate.min_stop_rate, "held-out rows")
    if gate.max_perplexity is not None:
        value = _value(gated, HELD_OUT, "perplexity")
        passed = value <= gate.max_perplexity
        comparison = "within" if passed else "not within"
        detail = f"perplexity is {value:.3f} on held-out rows, {comparison} the limit {gate.max_perplexity:g}"
        yield GateResult("perplexity", value, gate.max_perplexity, passed, blocking=True, detail=detail)
    for name, minimum in gate.min_test_set_exact_match.items():
        yield _at_least(f"exact_match_{name}", _value(gated, name, "exact_match"), minimum, f"{name} rows")


def _at_least(name: str, value: float, minimum: float, rows: str) -> GateResult:
    passed = value >= minimum
    title = "stop rate" if name == "stop_rate" else "exact match"
    detail = f"there are no {rows} to score"
    if not math.isnan(value):
        comparison = "at least" if passed else "below"
        detail = f"{title} is {format_share(value)} on {rows}, {comparison} the limit {format_share(minimum)}"
    return GateResult(name, value, minimum, passed, blocking=True, detail=detail)


def _value(result: ContestantResult, set_name: str, metric: str) -> float:
    estimate = result.scores.get(set_name, {}).get(metric)
    return math.nan if estimate is None else estimate.value
