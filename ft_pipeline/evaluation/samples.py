"""Rows to look at, side by side: what went wrong first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ft_pipeline.evaluation.rows import EvaluationRow, ScoredRow
from ft_pipeline.evaluation.scores import ContestantResult, Scoreboard


@dataclass(frozen=True)
class Sample:
    """One row with the answers of those that the report compares.

    Attributes:
        answers: Label of a contestant and what it made of the row; the gated challenger is the last.
    """

    row: EvaluationRow
    answers: tuple[tuple[str, ScoredRow], ...]

    @property
    def exact(self) -> bool:
        """The gated challenger gave the reference answer."""
        return self.answers[-1][1].exact


def choose_samples(board: Scoreboard, count: int) -> list[Sample]:
    """The worst rows of the gated challenger: what its opponent had right, then what it finds the least likely.

    Args:
        board: All results.
        count: How many rows, over all sets.
    """
    shown = _choose_contestants(board)
    order = sorted(range(len(board.gated.rows)), key=lambda index: _badness(board, index))
    return [Sample(board.gated.rows[i].row, tuple((r.label, r.rows[i]) for r in shown)) for i in order[:count]]


def _choose_contestants(board: Scoreboard) -> Sequence[ContestantResult]:
    wanted = board.gated.contestant.quantization
    bases = sorted(board.of_role("base"), key=lambda base: base.contestant.quantization != wanted)
    return list({result.label: result for result in [*bases[:1], board.opponent, board.gated]}.values())


def _badness(board: Scoreboard, index: int) -> tuple[bool, bool, float]:
    ours, theirs = board.gated.rows[index], board.opponent.rows[index]
    return ours.exact, not theirs.exact, ours.logprob / max(1, ours.reference_tokens)
