"""All metrics of the user's own: what does not load or fails on rows is told, and the report is written without."""

from __future__ import annotations

from collections.abc import Sequence

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.metrics import Metric
from ft_pipeline.evaluation.request import OwnFile
from ft_pipeline.evaluation.rows import ScoredRow
from ft_pipeline.evaluation.user_metric import UserMetric, as_metric, load_user_metric, score_rows, user_metric_name
from ft_pipeline.fingerprint import hash_file


class UserMetrics:
    """The metrics of some files.

    Args:
        files: With the hashes that they had when the run began.

    Attributes:
        metrics: By name; one that did not load has weight in no row, so that no rule of the gate passes by it.
        notes: What went wrong.
    """

    def __init__(self, files: Sequence[OwnFile]) -> None:
        self._loaded: list[UserMetric] = []
        self.metrics: dict[str, Metric] = {}
        self.notes: list[str] = []
        for file in files:
            name = user_metric_name(file.path)
            try:
                metric = self._load(file)
            except EvaluationError as err:
                self.notes.append(f"The metric {name} says nothing: {err}")
                self.metrics[name] = Metric(name, "number", part=lambda _row: 0.0, weight=lambda _row: 0.0)
            else:
                self._loaded.append(metric)
                self.metrics[name] = as_metric(metric)

    def score(self, rows: Sequence[ScoredRow], label: str) -> tuple[ScoredRow, ...]:
        """A contestant's rows with their scores."""
        scored, failed = score_rows(self._loaded, rows)
        for failures in failed:
            first = failures.first[0]
            where = f"{failures.metric.path.name}:{first.line}: " if first.line else ""
            self.notes.append(
                f"The metric {failures.metric.name} has no value for {failures.count} of {len(rows)} answers of "
                f"{label}; the first is {first.place}: {where}{first.error}"
            )
        return tuple(scored)

    @staticmethod
    def _load(file: OwnFile) -> UserMetric:
        try:
            found = hash_file(file.path)
        except OSError as err:
            raise EvaluationError(f"{file.path} cannot be read: {err.strerror}") from err
        if found != file.sha256:
            raise EvaluationError(
                f"{file.path} must be what it was when the run began, and was edited since. Start a new run."
            )
        return load_user_metric(file.path)
