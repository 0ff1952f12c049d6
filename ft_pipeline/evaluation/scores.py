"""What every contestant reached, set by set, and how two of them compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.costs import CardFit, Costs
from ft_pipeline.evaluation.intervals import Difference, Estimate, Terms, compare, estimate
from ft_pipeline.evaluation.metrics import Metric
from ft_pipeline.evaluation.request import Absence, Contestant, Role, find_gated
from ft_pipeline.evaluation.rows import ScoredRow
from ft_pipeline.evaluation.rules import Rival

T = TypeVar("T")


@dataclass(frozen=True)
class ContestantResult:
    """One contestant's rows and costs, and the longest context that its file has on each card."""

    contestant: Contestant
    rows: tuple[ScoredRow, ...]
    costs: Costs
    fits: tuple[CardFit, ...] = ()

    @property
    def label(self) -> str:
        return self.contestant.label

    @cached_property
    def sets(self) -> Mapping[str, tuple[ScoredRow, ...]]:
        """Rows by the name of their set, in the order of the report."""
        names = dict.fromkeys(scored.row.set_name for scored in self.rows)
        return {name: tuple(scored for scored in self.rows if scored.row.set_name == name) for name in names}


@dataclass(frozen=True)
class Scoreboard:
    """All contestants on the same rows, in the same order.

    Attributes:
        gated: The challenger that the gate judges: the first.
        opponent: What it must beat: the champion if there is one, else the base.
        metrics: Name to metric, the user's own among them.
        absent: Who should have competed and could not.
    """

    results: tuple[ContestantResult, ...]
    gated: ContestantResult
    opponent: ContestantResult | None
    metrics: Mapping[str, Metric]
    absent: tuple[Absence, ...] = ()
    _known: dict[tuple[str, ...], Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def set_names(self) -> list[str]:
        """Names of the sets that the gated challenger answered, the held-out rows first."""
        return list(self.gated.sets)

    def of_role(self, role: Role) -> list[ContestantResult]:
        """Results of one role, in the order of the request."""
        return [result for result in self.results if result.contestant.role == role]

    def find_rival(self, rival: Rival) -> ContestantResult | None:
        """Whom a rule means: its own quantization first. The base, before there is a champion."""
        if rival == "champion":
            return self.opponent
        if found := self.of_role(rival):
            wanted = prefer_quantization([one.contestant for one in found], self.gated.contestant.quantization)
            return next(one for one in found if one.contestant == wanted)
        is_gone = any(absence.role == "best" for absence in self.absent)
        # A champion without a better one before it is the best so far.
        return self.opponent if rival == "best" and not is_gone else None

    def estimate(self, result: ContestantResult, set_name: str, metric: str) -> Estimate | None:
        """A contestant's figure on a set; None where no row of the set has weight in the metric."""
        terms = self._find_terms(result, set_name, metric)
        if not terms.has_weight:
            return None
        key = "estimate", result.label, set_name, metric
        return self._remember(key, lambda: estimate(terms, self.metrics[metric].transform))

    def compare(
        self, ours: ContestantResult, theirs: ContestantResult, set_name: str, metric: str
    ) -> Difference | None:
        """The paired difference of two contestants on a set; None where either has no figure."""
        both = [self._find_terms(result, set_name, metric) for result in (ours, theirs)]
        if not all(terms.has_weight for terms in both):
            return None
        key = "difference", ours.label, theirs.label, set_name, metric
        return self._remember(key, lambda: compare(both[0], both[1], self.metrics[metric].transform))

    def find_metrics(self, set_name: str) -> list[str]:
        """The metrics that say something of a set, by whomever it was answered."""
        return [
            name
            for name in self.metrics
            if any(self._find_terms(result, set_name, name).has_weight for result in self.results)
        ]

    def _find_terms(self, result: ContestantResult, set_name: str, name: str) -> Terms:
        key = "terms", result.label, set_name, name
        return self._remember(key, lambda: _collect_terms(self.metrics[name], result.sets.get(set_name, ())))

    def _remember(self, key: tuple[str, ...], find: Callable[[], T]) -> T:
        """Tables, plots, rules and pages ask for the same figures."""
        if key not in self._known:
            self._known[key] = find()
        known: T = self._known[key]
        return known


def _collect_terms(metric: Metric, rows: Sequence[ScoredRow]) -> Terms:
    weights = np.array([metric.weight(row) for row in rows], np.float64)
    parts = [metric.part(row) if weight > 0 else 0.0 for row, weight in zip(rows, weights, strict=True)]
    return Terms(np.array(parts, np.float64), weights)


def build_scoreboard(
    results: Sequence[ContestantResult], metrics: Mapping[str, Metric], absent: Sequence[Absence] = ()
) -> Scoreboard:
    """Find who is judged and who it is judged against.

    Raises:
        EvaluationError: there is no challenger, or nobody to compare it with.
    """
    gated = find_gated([result.contestant for result in results])
    opponent = find_opponent([result.contestant for result in results], absent)
    by_contestant = {result.contestant: result for result in results}
    return Scoreboard(
        tuple(results),
        by_contestant[gated],
        by_contestant[opponent] if opponent else None,
        metrics,
        tuple(absent),
    )


def find_opponent(contestants: Sequence[Contestant], absent: Sequence[Absence] = ()) -> Contestant | None:
    """Whom the gated challenger must beat: the champion, else the base, in its quantization if it is there.

    There is none where the champion is absent: what runs today is then unknown, and the base no measure of it.

    Raises:
        EvaluationError: there is nobody to compare with.
    """
    gated = find_gated(contestants)
    for role in ("champion", "base"):
        if any(absence.role == role for absence in absent):
            return None
        if rivals := [contestant for contestant in contestants if contestant.role == role]:
            return prefer_quantization(rivals, gated.quantization)
    raise EvaluationError(f"an evaluation needs a champion or a base to compare {gated.label} with; there is neither")


def prefer_quantization(contestants: Sequence[Contestant], quantization: str) -> Contestant:
    """The one of this type, else the first."""
    return min(contestants, key=lambda contestant: contestant.quantization != quantization)
