"""Answers to score, made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ft_pipeline.datasets.conversation import Message
from ft_pipeline.evaluation.answer_check import AnswerCheck
from ft_pipeline.evaluation.intervals import Terms, estimate
from ft_pipeline.evaluation.metrics import Metric
from ft_pipeline.evaluation.rows import EvaluationRow, ScoredRow


def answer(prediction: str, reference: str = "blue", *, check: AnswerCheck | None = None, **changes: Any) -> ScoredRow:
    """A scored row: a question, its reference, and what a model made of it."""
    messages = (Message(role="user", content="What?"), Message(role="assistant", content=reference))
    row = EvaluationRow("held_out", 0, messages, "data/rows.jsonl", 1, check=check)
    return replace(ScoredRow(row, prediction, 2, stopped=True, logprob=-1.0, reference_tokens=2), **changes)


def make_terms(metric: Metric, *rows: ScoredRow) -> Terms:
    """What the rows add to a metric's sums; of a row without weight the part is not asked."""
    weights = [metric.weight(row) for row in rows]
    parts = [metric.part(row) if weight else 0.0 for row, weight in zip(rows, weights, strict=True)]
    return Terms(np.array(parts), np.array(weights))


def measure(metric: Metric, *rows: ScoredRow) -> float | None:
    """A metric's value over rows; None where none has weight."""
    terms = make_terms(metric, *rows)
    return estimate(terms, metric.transform).value if terms.has_weight else None
