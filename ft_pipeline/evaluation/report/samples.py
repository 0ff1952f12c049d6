"""Rows to look at, side by side: what went wrong first."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ft_pipeline.evaluation.report.outcome import Outcome, RowKey, unique_labels
from ft_pipeline.evaluation.rows import EvaluationRow, ScoredRow
from ft_pipeline.evaluation.scores import ContestantResult


@dataclass(frozen=True)
class Answer:
    """What one contestant made of the row.

    Attributes:
        is_right: In the reference's words or in others.
    """

    result: ContestantResult
    scored: ScoredRow
    is_right: bool


@dataclass(frozen=True)
class Sample:
    """One row.

    Attributes:
        answers: Of the base, the opponent and the gated challenger, which is the last.
        others: Of everybody else, where they differ from the challenger's.
        same: Everybody else who answers as the challenger does.
    """

    row: EvaluationRow
    answers: tuple[Answer, ...]
    others: tuple[Answer, ...]
    same: tuple[ContestantResult, ...]

    @property
    def is_right(self) -> bool:
        """The gated challenger is."""
        return self.answers[-1].is_right


def choose_samples(outcome: Outcome, count: int) -> list[Sample]:
    """The worst rows of the gated challenger: what its opponent had right, then what it finds the least likely.

    Args:
        outcome: All results.
        count: How many rows, over all sets but the general one.
    """
    keys = sorted(outcome.find_keys(outcome.asked_sets), key=lambda key: _rank(outcome, key))
    return [_make_sample(outcome, key) for key in keys[:count]]


def _make_sample(outcome: Outcome, key: RowKey) -> Sample:
    board = outcome.board
    shown = unique_labels([board.find_rival("base"), board.opponent, board.gated])
    ours = outcome.answers[board.gated.label][key]
    rest = [_answer(outcome, result, key) for result in board.results if result not in shown]
    others = [answer for answer in rest if answer]
    return Sample(
        ours.row,
        tuple(answer for result in shown if (answer := _answer(outcome, result, key))),
        tuple(answer for answer in others if answer.scored.prediction != ours.prediction),
        tuple(answer.result for answer in others if answer.scored.prediction == ours.prediction),
    )


def _answer(outcome: Outcome, result: ContestantResult, key: RowKey) -> Answer | None:
    scored = outcome.answers[result.label].get(key)
    return None if scored is None else Answer(result, scored, outcome.is_right(result, key))


def _rank(outcome: Outcome, key: RowKey) -> tuple[bool, bool, float]:
    board = outcome.board
    scored = outcome.answers[board.gated.label][key]
    opponent_is_right = board.opponent is not None and outcome.is_right(board.opponent, key)
    likelihood = scored.logprob / max(1, scored.reference_tokens)
    # What is no number is the least likely of all, and would leave a sort in any order.
    return outcome.is_right(board.gated, key), not opponent_is_right, likelihood if likelihood <= 0 else -math.inf
