"""Share of answers that are the reference, but for white space around them."""

from ft_pipeline.evaluation.metrics.against_reference import has_one_answer
from ft_pipeline.evaluation.metrics.metric import Metric

EXACT_MATCH = Metric("exact match", "share", part=lambda row: float(row.exact), weight=has_one_answer)
