"""Perplexity of the quantized model on the reference answers, divided by the 16-bit model's.

llama.cpp's tools/perplexity calls it "Mean PPL(Q)/PPL(base)".
"""

from ft_pipeline.evaluation.metrics.kl_divergence import count_compared_tokens
from ft_pipeline.evaluation.metrics.metric import Metric
from ft_pipeline.evaluation.metrics.perplexity import exp_or_infinity

PERPLEXITY_RATIO = Metric(
    "perplexity ratio",
    "number",
    part=lambda row: row.divergence.reference_logprob - row.divergence.logprob if row.divergence else 0.0,
    weight=count_compared_tokens,
    transform=exp_or_infinity,
    better="lower",
    family="fidelity",
)
