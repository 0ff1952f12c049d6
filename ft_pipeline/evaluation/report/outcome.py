"""What the evaluation has come to: all that a report tells of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from ft_pipeline.evaluation.breakdown import classify_error
from ft_pipeline.evaluation.gate import Verdict
from ft_pipeline.evaluation.metrics import METRICS
from ft_pipeline.evaluation.request import EvaluationRequest
from ft_pipeline.evaluation.rows import ScoredRow
from ft_pipeline.evaluation.rules import GENERAL, HELD_OUT
from ft_pipeline.evaluation.scores import ContestantResult, Scoreboard

if TYPE_CHECKING:
    from ft_pipeline.evaluation.costs import CardFit
    from ft_pipeline.evaluation.harness import HarnessScore

# Kinds of error that are none of content: the fields or the final answer are right.
_RIGHT_KINDS = (None, "right, but other text")
_ROLE_NAMES = {"best": "best champion so far", "merged": "merged 16-bit model"}
_GENERAL_METRIC = "passed_checks"

# Set and number of a row.
RowKey = tuple[str, int]


@dataclass(frozen=True)
class Outcome:
    """The results, the verdict, and what else there is to say.

    Attributes:
        notes: Sentences to stand under the verdict: few rows, a metric that failed on some.
        harness: Label of a contestant to its figures in the tasks of lm-evaluation-harness.
        cards: Label of a contestant to the cards, and the longest context that its file has on each.
    """

    request: EvaluationRequest
    board: Scoreboard
    verdict: Verdict
    notes: Sequence[str] = ()
    harness: Mapping[str, Sequence[HarnessScore]] = field(default_factory=dict)
    cards: Mapping[str, Sequence[CardFit]] = field(default_factory=dict)

    @cached_property
    def answers(self) -> Mapping[str, Mapping[RowKey, ScoredRow]]:
        """By a contestant's label: what it made of each row that it was asked."""
        return {
            result.label: {(scored.row.set_name, scored.row.number): scored for scored in result.rows}
            for result in self.board.results
        }

    @cached_property
    def errors(self) -> Mapping[str, Mapping[RowKey, str | None]]:
        """By a contestant's label: each row's kind of error, None where it is right to the letter."""
        answer_match = self.board.metrics.get("answer_match", METRICS["answer_match"])
        return {
            label: {key: classify_error(scored, answer_match) for key, scored in answers.items()}
            for label, answers in self.answers.items()
        }

    @property
    def all_notes(self) -> list[str]:
        """The notes, and who is absent."""
        absent = [
            f"The {_ROLE_NAMES.get(one.role, one.role)} did not compete: {one.reason}" for one in self.board.absent
        ]
        return [*absent, *self.notes]

    @property
    def asked_sets(self) -> list[str]:
        """The sets of the user's data, without the general one."""
        return [name for name in self.board.set_names if name != GENERAL]

    def is_right(self, result: ContestantResult, key: RowKey) -> bool:
        """Whether a contestant's answer to a row is right, in the reference's words or in others."""
        return self.errors[result.label].get(key, "not asked") in _RIGHT_KINDS

    def find_keys(self, set_names: Sequence[str]) -> list[RowKey]:
        """The rows of some sets."""
        return [key for key in self.answers[self.board.gated.label] if key[0] in set_names]

    def find_main_metric(self, set_name: str) -> str | None:
        """The one figure that stands for a set: what the gate decides by, where it says something of the set."""
        found = self.board.find_metrics(set_name)
        deciding = [result.rule.measure for result in self.verdict.deciding]
        wanted = [_GENERAL_METRIC] if set_name == GENERAL else [*deciding, *found]
        return next((name for name in wanted if name in found), None)

    def choose_figures(self) -> list[tuple[str, str]]:
        """Set and metric of the figures that matter most: those of the gate, its deciding ones first."""
        ruled = [
            (result.rule.set_name, result.rule.measure) for result in (*self.verdict.deciding, *self.verdict.results)
        ]
        main = [(HELD_OUT, name) for name in ("exact_match", "json_fields", "answer_match", "stop_rate")]
        others = [(name, metric) for name in self.board.set_names if (metric := self.find_main_metric(name))]
        return [
            (set_name, metric)
            for set_name, metric in dict.fromkeys([*ruled, *main, *others])
            if set_name in self.board.set_names and metric in self.board.find_metrics(set_name)
        ]


def unique_labels(results: Sequence[ContestantResult | None]) -> list[ContestantResult]:
    """Each that is there, once."""
    return list({result.label: result for result in results if result}.values())
