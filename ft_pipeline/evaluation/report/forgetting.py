"""What the fine-tune forgot: the base and the gated challenger on the general set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ft_pipeline.evaluation.intervals import Difference, Terms, compare
from ft_pipeline.evaluation.metrics.passed_checks import passes_check
from ft_pipeline.evaluation.rows import ScoredRow
from ft_pipeline.evaluation.rules import GENERAL
from ft_pipeline.evaluation.scores import ContestantResult, Scoreboard


@dataclass(frozen=True)
class Change:
    """Some of the rows, and the share that passes.

    Attributes:
        name: A tag; "all" for all of them.
    """

    name: str
    rows: int
    before: float
    now: float
    difference: Difference


@dataclass(frozen=True)
class Forgetting:
    """The change from the base to the challenger.

    Attributes:
        changes: All rows, then each tag.
        lost: What the base made of a row that it has right, and the wrong answer of the challenger.
        gained: Rows that only the challenger has right.
    """

    base: ContestantResult
    changes: tuple[Change, ...]
    lost: tuple[tuple[ScoredRow, ScoredRow], ...]
    gained: int


def find_forgetting(board: Scoreboard) -> Forgetting | None:
    """None where the general set was not asked, or no base competes."""
    base = board.find_rival("base")
    if base is None or not (base.sets.get(GENERAL) and board.gated.sets.get(GENERAL)):
        return None
    pairs = list(zip(base.sets[GENERAL], board.gated.sets[GENERAL], strict=True))
    tags = dict.fromkeys(tag for before, _ in pairs for tag in before.row.tags)
    changes = [_measure_change("all", pairs)]
    changes += [_measure_change(tag, [pair for pair in pairs if tag in pair[0].row.tags]) for tag in tags]
    passes = [(passes_check(before), passes_check(now)) for before, now in pairs]
    return Forgetting(
        base,
        tuple(changes),
        tuple(pair for pair, (before, now) in zip(pairs, passes, strict=True) if before and not now),
        sum(now and not before for before, now in passes),
    )


def _measure_change(name: str, pairs: Sequence[tuple[ScoredRow, ScoredRow]]) -> Change:
    before, now = (np.array([float(passes_check(pair[side])) for pair in pairs]) for side in (0, 1))
    ones = np.ones(len(pairs))
    difference = compare(Terms(now, ones), Terms(before, ones))
    return Change(name, len(pairs), float(before.mean()), float(now.mean()), difference)
