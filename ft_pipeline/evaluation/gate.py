"""The gate: what the challenger must reach before it is published."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ft_pipeline.evaluation.figures import format_difference, format_figure
from ft_pipeline.evaluation.intervals import SIGNIFICANCE, Difference
from ft_pipeline.evaluation.rules import COSTS, Rule
from ft_pipeline.evaluation.scores import ContestantResult, Scoreboard
from ft_pipeline.recipe_evaluation import GateSection


@dataclass(frozen=True)
class GateResult:
    """One rule, and whether the challenger keeps it.

    Attributes:
        value: What was found: the figure, or its difference to the rival's; NaN where there was nothing to find it
            from, which never passes.
        detail: One sentence with the figures.
        difference: To the rival, where there is one.
    """

    rule: Rule
    value: float
    passed: bool
    detail: str
    difference: Difference | None = None

    @property
    def blocking(self) -> bool:
        """A breach fails the run."""
        return self.rule.on_failure == "fail"


@dataclass(frozen=True)
class Verdict:
    """What the rules say of the challenger.

    Attributes:
        is_best: It is at least as good as the best champion ever, by the rules that decide.
    """

    results: tuple[GateResult, ...]
    is_best: bool

    @property
    def publish(self) -> bool:
        """Whether it takes the champion's place."""
        return not self.refusals

    @property
    def refusals(self) -> tuple[GateResult, ...]:
        """The broken rules that keep it from being published."""
        return tuple(result for result in self.results if not result.passed and result.rule.on_failure != "warn")

    @property
    def deciding(self) -> tuple[GateResult, ...]:
        """The rules that say whether it is better than what runs today."""
        return tuple(result for result in self.results if result.rule.decides)


def judge(board: Scoreboard, gate: GateSection) -> Verdict:
    """Apply the recipe's rules to the gated challenger."""
    results: list[GateResult] = []
    for rule in gate.parsed:
        if rule.bounds_ties:
            results.append(_judge_loss(board, rule, results[-1]))
        elif rule.rival:
            results.append(_judge_against_rival(board, rule, accepts_tie=rule.decides and gate.tie == "newer"))
        else:
            results.append(_judge_value(board, rule))
    is_best = all(_reaches_best(board, result) for result in results if result.rule.decides)
    return Verdict(tuple(results), is_best)


def _judge_value(board: Scoreboard, rule: Rule) -> GateResult:
    value = _find_value(board, board.gated, rule)
    if math.isnan(value):
        return GateResult(rule, value, False, f"there is nothing on {rule.set_name} rows to take {rule.measure} from")
    passed = rule.holds(value, rule.limit)
    found, asked = (format_figure(rule.measure, board.metrics, number) for number in (value, rule.limit))
    where = "" if rule.measure in COSTS else f" on {rule.set_name} rows"
    word = "within" if passed else "not within"
    return GateResult(
        rule, value, passed, f"{rule.measure} is {found}{where}, {word} the limit {rule.operator} {asked}"
    )


def _judge_against_rival(board: Scoreboard, rule: Rule, *, accepts_tie: bool) -> GateResult:
    rival, difference = _compare(board, rule)
    if rival is None or difference is None:
        return GateResult(rule, math.nan, False, _explain_missing(board, rule, rival))
    interval = difference.interval
    beyond = interval.low if rule.wants_more else interval.high
    is_chance = rule.is_strict and difference.p_value >= SIGNIFICANCE
    passed = rule.holds(beyond if rule.is_strict else difference.value, rule.limit) and not is_chance
    is_tie = rule.decides and difference.is_tie
    found = f"{rule.measure} on {rule.set_name} rows: {format_difference(rule.measure, board.metrics, difference)}"
    if is_tie:
        kept = "the challenger, which is newer" if accepts_tie else "the champion"
        detail = f"level with {rival.label} in {found}; the recipe gives a tie to {kept}"
    else:
        gain = _gain(rule, difference)
        word = "better than" if gain > 0 else "worse than" if gain < 0 else "level with"
        detail = f"{word} {rival.label} in {found}"
    return GateResult(rule, difference.value, passed or (is_tie and accepts_tie), detail, difference)


def _judge_loss(board: Scoreboard, rule: Rule, against_champion: GateResult) -> GateResult:
    champion = against_champion.difference
    is_tie = champion is None or champion.is_tie
    best, difference = _compare(board, rule)
    if best is None or difference is None:
        return GateResult(rule, math.nan, not is_tie, _explain_missing(board, rule, best))
    found = format_difference(rule.measure, board.metrics, difference)
    end = difference.interval.high if rule.wants_more else -difference.interval.low
    passed = not is_tie or (rule.holds(difference.value, rule.limit) and end >= 0)
    asked = f"ties may lose {abs(rule.limit):g} in all" if is_tie else "not asked: it is no tie with the champion"
    detail = f"against the best so far, {best.label}: {found}; {asked}"
    return GateResult(rule, difference.value, passed, detail, difference)


def _reaches_best(board: Scoreboard, against_champion: GateResult) -> bool:
    rule, best = against_champion.rule, board.find_rival("best")
    if best is None:
        # The best one's files are gone. What is clearly better than the champion, who was near it, sets the mark anew.
        found = against_champion.difference
        return against_champion.passed and found is not None and not found.is_tie
    difference = board.compare(board.gated, best, rule.set_name, rule.measure)
    return difference is not None and _gain(rule, difference) >= 0


def _compare(board: Scoreboard, rule: Rule) -> tuple[ContestantResult | None, Difference | None]:
    rival = board.find_rival(rule.rival) if rule.rival else None
    return rival, None if rival is None else board.compare(board.gated, rival, rule.set_name, rule.measure)


def _gain(rule: Rule, difference: Difference) -> float:
    """How much better, whichever way the measure goes."""
    return difference.value if rule.wants_more else -difference.value


def _find_value(board: Scoreboard, result: ContestantResult, rule: Rule) -> float:
    if rule.measure in COSTS:
        cost = getattr(result.costs, rule.measure)
        return math.nan if cost is None else float(cost)
    found = board.estimate(result, rule.set_name, rule.measure)
    return math.nan if found is None else found.value


def _explain_missing(board: Scoreboard, rule: Rule, rival: ContestantResult | None) -> str:
    if rival is not None:
        return f"there is nothing on {rule.set_name} rows to compare {rule.measure} with {rival.label} by"
    roles = {rule.rival, "base" if rule.rival == "champion" else rule.rival}
    for absence in board.absent:
        if absence.role in roles:
            return f"the {absence.role} could not be scored: {absence.reason}"
    return f"there is no {rule.rival} to compare with"
