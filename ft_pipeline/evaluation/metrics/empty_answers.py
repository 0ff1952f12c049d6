"""Share of answers that are nothing but white space; a row that was not put to the model has such an answer."""

from ft_pipeline.evaluation.metrics.metric import Metric

EMPTY_ANSWERS = Metric(
    "empty answers",
    "share",
    part=lambda row: float(bool(row.fault) or not row.prediction.strip()),
    weight=lambda row: float(bool(row.row.reference.strip())),
    better="lower",
    family="answers",
)
