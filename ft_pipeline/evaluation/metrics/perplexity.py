"""Perplexity on the reference answers: exp of the mean negative log-likelihood per token.

Source: Jelinek et al. 1977; llama.cpp's tools/perplexity takes the same mean over all tokens of running text. Between
models with different tokenizers it does not compare.
"""

import math

from ft_pipeline.evaluation.metrics.metric import Metric


def exp_or_infinity(nats: float) -> float:
    """e to the power of `nats`; infinite where that is too large."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


PERPLEXITY = Metric(
    "perplexity",
    "number",
    part=lambda row: -row.logprob,
    weight=lambda row: float(row.reference_tokens),
    transform=exp_or_infinity,
    better="lower",
    family="likelihood",
)
