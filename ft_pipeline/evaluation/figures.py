"""Figures in words: one way to write a share, a size or an interval, wherever it stands."""

from __future__ import annotations

import math

from ft_pipeline.evaluation.intervals import Interval
from ft_pipeline.evaluation.metrics import Metric


def format_share(share: float) -> str:
    """`0.958` as `95.8 %`."""
    return "not a number" if math.isnan(share) else f"{100 * share:.1f} %"


def format_points(difference: float) -> str:
    """A difference of shares in percentage points, `0.021` as `+2.1`."""
    return f"{100 * difference:+.1f}"


def format_metric(metric: Metric, value: float) -> str:
    """A metric's value in its unit."""
    return format_share(value) if metric.unit == "share" else f"{value:.3f}" if value < 1000 else f"{value:.3g}"


def format_interval(metric: Metric, interval: Interval) -> str:
    """A metric's interval in its unit, such as `93.1 – 98.1`."""
    if metric.unit == "share":
        return f"{100 * interval.low:.1f} – {100 * interval.high:.1f}"
    return f"{format_metric(metric, interval.low)} – {format_metric(metric, interval.high)}"


def format_size(size_bytes: int) -> str:
    """Bytes as MiB or GiB."""
    return f"{size_bytes / 2**30:.2f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.1f} MiB"


def keep_finite(value: float) -> float | None:
    """The value, or None where it is no number: JSON and Dagster's metadata have no NaN."""
    return value if math.isfinite(value) else None
