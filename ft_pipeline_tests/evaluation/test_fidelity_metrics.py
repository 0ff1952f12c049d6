from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from ft_pipeline.evaluation.metrics.kl_divergence import KL_DIVERGENCE
from ft_pipeline.evaluation.metrics.metric import Metric
from ft_pipeline.evaluation.metrics.perplexity_ratio import PERPLEXITY_RATIO
from ft_pipeline.evaluation.metrics.top_agreement import TOP_AGREEMENT
from ft_pipeline.evaluation.rows import Divergence, EvaluationRow, ScoredRow


def apply(metric: Metric, rows: Sequence[ScoredRow]) -> float:
    counted = [row for row in rows if metric.weight(row)]
    return metric.transform(sum(map(metric.part, counted)) / sum(map(metric.weight, counted)))


def make_compared(*divergences: Divergence | None) -> list[ScoredRow]:
    row = EvaluationRow("held_out", 0, ({"role": "assistant", "content": "blue"},), "rows.jsonl", 1)
    return [ScoredRow(row, "blue", 2, True, -1.0, 2, divergence=divergence) for divergence in divergences]


def test_metrics_are_taken_over_the_tokens_that_were_compared() -> None:
    rows = make_compared(
        Divergence(1, kl_sum=0.4, same_top=1, logprob=-1.0, reference_logprob=-0.5, kl_max=0.4),
        None,
        Divergence(3, kl_sum=0.8, same_top=2, logprob=-2.0, reference_logprob=-2.1, kl_max=0.7),
    )
    assert apply(KL_DIVERGENCE, rows) == pytest.approx(0.3)
    assert apply(TOP_AGREEMENT, rows) == pytest.approx(0.75)
    assert apply(PERPLEXITY_RATIO, rows) == pytest.approx(math.exp(0.4 / 4))
    assert [metric.weight(rows[1]) for metric in (KL_DIVERGENCE, TOP_AGREEMENT, PERPLEXITY_RATIO)] == [0, 0, 0]


def test_the_perplexity_ratio_of_an_impossible_reference_is_infinite() -> None:
    rows = make_compared(Divergence(1, kl_sum=2e3, same_top=0, logprob=-2e3, reference_logprob=-1.0, kl_max=2e3))
    assert apply(PERPLEXITY_RATIO, rows) == math.inf
