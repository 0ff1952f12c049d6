"""What every contestant reached, set by set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.intervals import Interval
from ft_pipeline.evaluation.llama_runner import Speed
from ft_pipeline.evaluation.metrics import METRICS
from ft_pipeline.evaluation.request import Contestant
from ft_pipeline.evaluation.rows import ScoredRow


@dataclass(frozen=True)
class Estimate:
    """A metric's value with its 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class RunFigures:
    """What a file costs to run.

    Attributes:
        scoring_seconds: Wall time of answering and scoring all rows.
    """

    size_bytes: int
    load_seconds: float
    scoring_seconds: float
    speed: Speed


@dataclass(frozen=True)
class ContestantResult:
    """One contestant's rows and costs."""

    contestant: Contestant
    rows: tuple[ScoredRow, ...]
    run: RunFigures

    @property
    def label(self) -> str:
        return self.contestant.label

    @cached_property
    def sets(self) -> Mapping[str, tuple[ScoredRow, ...]]:
        """Rows by the name of their set, in the order of the report."""
        names = dict.fromkeys(scored.row.set_name for scored in self.rows)
        return {name: tuple(scored for scored in self.rows if scored.row.set_name == name) for name in names}

    @cached_property
    def scores(self) -> Mapping[str, Mapping[str, Estimate | None]]:
        """Set name to metric name to estimate; None where no row of the set has weight in the metric."""
        return {name: {key: _estimate(key, rows) for key in METRICS} for name, rows in self.sets.items()}


@dataclass(frozen=True)
class Scoreboard:
    """All contestants on the same rows, in the same order.

    Attributes:
        gated: The challenger that the gate judges: the first.
        opponent: What it must beat: the champion if there is one, else the base.
    """

    results: tuple[ContestantResult, ...]
    gated: ContestantResult
    opponent: ContestantResult

    @property
    def set_names(self) -> list[str]:
        return list(self.gated.sets)

    def of_role(self, role: str) -> Iterator[ContestantResult]:
        """Results of one role, in the order of the request."""
        return (result for result in self.results if result.contestant.role == role)


def build_scoreboard(results: Sequence[ContestantResult]) -> Scoreboard:
    """Find who is judged and who it is judged against.

    Raises:
        EvaluationError: see `check_contestants`.
    """
    by_contestant = {result.contestant: result for result in results}
    gated, opponent = check_contestants(list(by_contestant))
    return Scoreboard(tuple(results), by_contestant[gated], by_contestant[opponent])


def check_contestants(contestants: Sequence[Contestant]) -> tuple[Contestant, Contestant]:
    """The challenger that is gated and its opponent: the champion, else the base, in its quantization if it is there.

    Raises:
        EvaluationError: a contestant stands twice, no challenger, or nobody to compare it with.
    """
    labels = [contestant.label for contestant in contestants]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise EvaluationError(f"a contestant must stand once; {', '.join(twice)} stands twice")
    challengers = [contestant for contestant in contestants if contestant.role == "challenger"]
    if not challengers:
        raise EvaluationError(f"an evaluation needs a challenger; there is {', '.join(labels) or 'nobody'}")
    gated = challengers[0]
    for role in ("champion", "base"):
        rivals = [contestant for contestant in contestants if contestant.role == role]
        rivals.sort(key=lambda rival: rival.quantization != gated.quantization)
        if rivals:
            return gated, rivals[0]
    raise EvaluationError(f"an evaluation needs a champion or a base to compare {gated.label} with; there is neither")


def _estimate(metric: str, rows: Sequence[ScoredRow]) -> Estimate | None:
    if not any(METRICS[metric].weight(row) > 0 for row in rows):
        return None
    return Estimate(METRICS[metric](rows), METRICS[metric].interval(rows))
