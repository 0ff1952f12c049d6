"""A user's own metric: one Python file that defines `score`, run as the user's own code in the evaluation's process.

    TITLE = "keywords found"   # for tables; without it the file's name
    UNIT = "share"             # or "number"; a share is from 0 to 1
    BETTER = "higher"          # or "lower"

    def score(prediction: str, reference: str, messages: list[dict[str, str]]) -> float | bool:
        # messages: what the model was given
        return reference.split()[0] in prediction

The file is trusted: nothing keeps it from reading, writing or never returning.
"""

from __future__ import annotations

import inspect
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from keyword import iskeyword
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat

from ft_pipeline.datasets.checks.secrets import redact
from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.metrics import METRICS, Metric
from ft_pipeline.evaluation.rules import COSTS

if TYPE_CHECKING:
    from ft_pipeline.evaluation.rows import ScoredRow

# Names of other figures of a report, of its materialization, and of columns of its predictions.
_RESERVED = {
    *(
        "publish",
        "is_best",
        "verdict",
        "rows",
        "general",
        "report",
        "champion",
        "base",
        "best",
        "merged",
        "gate",
        "better",
    ),
    *("path", "reused", "size", "wall_seconds", "built_at", "peak_rss_bytes", *COSTS),
    *("set", "row", "source_file", "source_line", "contestant", "prediction", "reference", "exact", "stopped"),
    *("n_tokens", "logprob", "reference_tokens", "fault"),
}
_MAX_FAILURES_SHOWN = 5
_MAX_ERROR_CHARS = 300
_CHOICES = {"UNIT": ("share", "number"), "BETTER": ("higher", "lower")}


@dataclass(frozen=True)
class UserMetric:
    """A loaded metric file.

    Attributes:
        name: The file's name without `.py`.
        score: From the answer, the reference and the messages before it to the row's value.
    """

    name: str
    path: Path
    title: str
    unit: Literal["share", "number"]
    better: Literal["higher", "lower"]
    score: Callable[[str, str, list[dict[str, str]]], Any]


@dataclass(frozen=True)
class ScoreFailure:
    """A call of a user's metric without a result.

    Attributes:
        place: The row, as `file:line`.
        error: What went wrong, in one line.
        line: Where in the metric's file; None where that is not known.
    """

    place: str
    error: str
    line: int | None


@dataclass(frozen=True)
class MetricFailures:
    """All calls of one metric without a result.

    Attributes:
        count: How many rows have no score.
        first: The first five.
    """

    metric: UserMetric
    count: int
    first: tuple[ScoreFailure, ...]


def user_metric_name(path: Path) -> str:
    """The name under which a metric file's scores go, by its path alone.

    Raises:
        ValueError: the file is no `.py`, its name is no identifier, or a metric is called so.
    """
    name = path.stem
    if path.suffix != ".py" or not (name.isascii() and name.isidentifier()) or iskeyword(name):
        raise ValueError(
            f"a metric's file must be called like a Python variable, such as keywords_found.py; {path.name!r} is not"
        )
    if name in METRICS or name in _RESERVED:
        raise ValueError(f"a metric's file must have a name of its own; {name!r} is taken. Rename {path}.")
    return name


def load_user_metric(path: Path) -> UserMetric:
    """Run a metric's file and take what it defines; nothing is written beside it.

    Raises:
        EvaluationError: the file cannot be read or run, defines no `score` of three arguments, or has a wrong constant.
    """
    try:
        name = user_metric_name(path)
    except ValueError as err:
        raise EvaluationError(str(err)) from err
    module = _run_file(path, f"_ft_pipeline_user_metric_{name}")
    for constant, choices in _CHOICES.items():
        if (value := getattr(module, constant, choices[0])) not in choices:
            raise EvaluationError(f"{path}: {constant} must be one of {', '.join(choices)}; it is {value!r}")
    title = getattr(module, "TITLE", name.replace("_", " "))
    if not isinstance(title, str) or not title.strip():
        raise EvaluationError(f"{path}: TITLE must be a text; it is {title!r}")
    return UserMetric(
        name=name,
        path=path,
        title=title.strip(),
        unit=getattr(module, "UNIT", "share"),
        better=getattr(module, "BETTER", "higher"),
        score=_take_score(module, path),
    )


def as_metric(user_metric: UserMetric) -> Metric:
    """The mean of a user's scores: no number where it failed on a row, for it may well fail on the bad answers."""
    name = user_metric.name
    return Metric(
        user_metric.title,
        user_metric.unit,
        part=lambda row: row.user_scores.get(name, math.nan),
        weight=lambda row: float(row.row.check is None),
        better=user_metric.better,
    )


def score_rows(
    metrics: Sequence[UserMetric], rows: Sequence[ScoredRow]
) -> tuple[list[ScoredRow], list[MetricFailures]]:
    """Rows with their scores by every metric, and the metrics that failed on some.

    A row that was not put to the model is scored by its empty answer; one with a check of its own is not scored.
    """
    scores: list[dict[str, float]] = [dict(row.user_scores) for row in rows]
    failed = []
    for metric in metrics:
        failures = []
        for row, row_scores in zip(rows, scores, strict=True):
            if row.row.check is not None:
                continue
            outcome = _score_row(metric, row)
            if isinstance(outcome, ScoreFailure):
                failures.append(outcome)
            else:
                row_scores[metric.name] = outcome
        if failures:
            failed.append(MetricFailures(metric, len(failures), tuple(failures[:_MAX_FAILURES_SHOWN])))
    return [replace(row, user_scores=row_scores) for row, row_scores in zip(rows, scores, strict=True)], failed


def _score_row(metric: UserMetric, row: ScoredRow) -> float | ScoreFailure:
    messages = [{"role": turn["role"], "content": turn["content"]} for turn in row.row.prompt]
    line: int | None = None
    try:
        value = metric.score(row.prediction, row.row.reference, messages)
        if isinstance(value, SupportsFloat):
            number = float(value)
            if math.isfinite(number) and (metric.unit == "number" or 0 <= number <= 1):
                return number
        wanted = "a number" if metric.unit == "number" else 'a share from 0 to 1 (or set UNIT = "number")'
        error = _to_line(f"score must return {wanted}; it returned {value!r}")
    # The user's code: whatever it raises costs the row's score and not the report.
    except (Exception, SystemExit) as err:  # noqa: BLE001
        error, line = _describe(err, metric.path)
    return ScoreFailure(row.row.place, error, line)


class _SourceLoader(SourceFileLoader):
    """Always from the source: a cached one may be stale within a second, and the user's folder is not written to."""

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        return self.source_to_code(self.get_data(self.path), self.path)


def _run_file(path: Path, module_name: str) -> ModuleType:
    loader = _SourceLoader(module_name, str(path))
    spec = spec_from_loader(module_name, loader)
    assert spec is not None  # noqa: S101 - a loader was given
    module = module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[module_name] = module
    try:
        loader.exec_module(module)
    except BaseException as err:
        del sys.modules[module_name]
        if not isinstance(err, Exception | SystemExit):
            raise
        error, line = _describe(err, path)
        raise EvaluationError(f"a metric's file must run; {_show_place(path, line)}: {error}") from err
    return module


def _take_score(module: ModuleType, path: Path) -> Callable[[str, str, list[dict[str, str]]], Any]:
    score = getattr(module, "score", None)
    if not callable(score):
        raise EvaluationError(f"a metric's file must define score(prediction, reference, messages); {path} does not")
    try:
        inspect.signature(score).bind("", "", [])
    except (TypeError, ValueError) as err:
        line = getattr(getattr(score, "__code__", None), "co_firstlineno", None)
        raise EvaluationError(
            f"{_show_place(path, line)}: score must take (prediction, reference, messages); {err}"
        ) from err
    return score  # type: ignore[no-any-return]


def _describe(err: BaseException, path: Path) -> tuple[str, int | None]:
    """The error in one line, and the last line of the file that led to it."""
    if isinstance(err, SyntaxError) and err.filename == str(path):
        return _to_line(f"{type(err).__name__}: {err.msg}"), err.lineno
    frames = traceback.extract_tb(err.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return _to_line(traceback.format_exception_only(err)[-1]), lines[-1] if lines else None


def _to_line(text: str) -> str:
    line = redact(" ".join(text.split()))
    return line if len(line) <= _MAX_ERROR_CHARS else f"{line[:_MAX_ERROR_CHARS]}…"


def _show_place(path: Path, line: int | None) -> str:
    return f"{path}:{line}" if line else str(path)
