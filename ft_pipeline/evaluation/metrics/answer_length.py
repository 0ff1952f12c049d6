"""Mean number of tokens of the answers, the end-of-generation token included: what they cost."""

from ft_pipeline.evaluation.metrics.metric import Metric

ANSWER_LENGTH = Metric(
    "answer length in tokens",
    "number",
    part=lambda row: float(row.n_tokens),
    weight=lambda row: float(not row.fault),
    better="neither",
    family="answers",
)
