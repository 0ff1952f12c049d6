"""Share of tokens where the quantized model and the 16-bit one find the same token the most likely.

llama.cpp's tools/perplexity calls it "Same top p".
"""

from ft_pipeline.evaluation.metrics.kl_divergence import count_compared_tokens
from ft_pipeline.evaluation.metrics.metric import Metric

TOP_AGREEMENT = Metric(
    "top-token agreement",
    "share",
    part=lambda row: float(row.divergence.same_top) if row.divergence else 0.0,
    weight=count_compared_tokens,
    family="fidelity",
)
