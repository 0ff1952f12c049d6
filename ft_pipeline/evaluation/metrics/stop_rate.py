"""Share of answers that end by an end-of-generation token within the limit of new tokens."""

from ft_pipeline.evaluation.metrics.metric import Metric

STOP_RATE = Metric("stop rate", "share", part=lambda row: float(row.stopped and not row.fault), family="answers")
