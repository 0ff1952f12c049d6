"""Figures in words: one way to write a share, a size or an interval, wherever it stands."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ft_pipeline.evaluation.intervals import Difference, Interval
from ft_pipeline.evaluation.metrics import Metric


def format_share(share: float) -> str:
    """`0.958` as `95.8 %`."""
    return "not a number" if math.isnan(share) else f"{100 * share:.1f} %"


def format_points(difference: float) -> str:
    """A difference of shares in percentage points, `0.021` as `+2.1`."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def format_number(value: float) -> str:
    """A figure that is no share: three decimals; two digits of small ones, no decimals of large ones."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if 0 < abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:.4f}" if 0 < abs(value) < 0.1 else f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def format_metric(metric: Metric, value: float) -> str:
    """A metric's value in its unit."""
    return format_share(value) if metric.unit == "share" else format_number(value)


def format_interval(metric: Metric, interval: Interval) -> str:
    """A metric's interval in its unit, such as `93.1 – 98.1`."""
    if metric.unit == "share":
        return f"{100 * interval.low:.1f} – {100 * interval.high:.1f}"
    return f"{format_number(interval.low)} – {format_number(interval.high)}"


def format_figure(measure: str, metrics: Mapping[str, Metric], value: float) -> str:
    """What a rule of the gate found or asks, in its unit."""
    if measure in metrics:
        return format_metric(metrics[measure], value)
    return format_size(int(value)) if measure.endswith("_bytes") and math.isfinite(value) else format_number(value)


def format_change(measure: str, metrics: Mapping[str, Metric], value: float) -> str:
    """A difference in the measure's unit, with its sign."""
    if metrics[measure].unit == "share":
        return f"{format_points(value)} points"
    return f"{'+' if value >= 0 else '−'}{format_number(abs(value))}"


def format_change_interval(measure: str, metrics: Mapping[str, Metric], interval: Interval) -> str:
    """A difference's interval, such as `+0.3 to +4.0`; the unit stands with the difference."""
    low, high = (format_change(measure, metrics, end).removesuffix(" points") for end in (interval.low, interval.high))
    return f"{low} to {high}"


def format_difference(measure: str, metrics: Mapping[str, Metric], difference: Difference) -> str:
    """`+2.1 points (95 % interval +0.3 to +4.0, p = 0.021)`."""
    change = format_change(measure, metrics, difference.value)
    interval = format_change_interval(measure, metrics, difference.interval)
    return f"{change} (95 % interval {interval}, p = {difference.p_value:.2g})"


def format_size(size_bytes: int) -> str:
    """Bytes as MiB or GiB."""
    return f"{size_bytes / 2**30:.2f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.1f} MiB"


def keep_finite(value: float) -> float | None:
    """The value, or None where it is no number: JSON and Dagster's metadata have no NaN."""
    return value if math.isfinite(value) else None
