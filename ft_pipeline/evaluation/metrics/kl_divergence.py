"""Mean Kullback-Leibler divergence of the 16-bit model's next token from the quantized one's, in nats per token.

Source: Kullback and Leibler 1951; llama.cpp's tools/perplexity takes the same mean (`--kl-divergence`, "Mean KLD").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft_pipeline.evaluation.metrics.metric import Metric

if TYPE_CHECKING:
    from ft_pipeline.evaluation.rows import ScoredRow


def count_compared_tokens(row: ScoredRow) -> float:
    """Tokens where the row's contestant was compared with the 16-bit model."""
    return float(row.divergence.tokens) if row.divergence else 0.0


KL_DIVERGENCE = Metric(
    "KL divergence",
    "number",
    part=lambda row: row.divergence.kl_sum if row.divergence else 0.0,
    weight=count_compared_tokens,
    better="lower",
    family="fidelity",
)
