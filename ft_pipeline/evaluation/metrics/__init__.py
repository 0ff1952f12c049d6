"""One file per metric, one line for each in `METRICS`: the tables, the plots and the JSON take them from there."""

from __future__ import annotations

from ft_pipeline.evaluation.metrics.exact_match import EXACT_MATCH
from ft_pipeline.evaluation.metrics.metric import Metric
from ft_pipeline.evaluation.metrics.perplexity import PERPLEXITY
from ft_pipeline.evaluation.metrics.stop_rate import STOP_RATE

METRICS: dict[str, Metric] = {
    "exact_match": EXACT_MATCH,
    "perplexity": PERPLEXITY,
    "stop_rate": STOP_RATE,
}

__all__ = ["EXACT_MATCH", "METRICS", "PERPLEXITY", "STOP_RATE", "Metric"]
