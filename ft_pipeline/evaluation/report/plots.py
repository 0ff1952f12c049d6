"""The evaluation's pictures. None is drawn where there is nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import numpy as np

from ft_pipeline.datasets.checks.secrets import redact
from ft_pipeline.evaluation.figures import format_metric
from ft_pipeline.evaluation.report.fidelity import find_fidelity
from ft_pipeline.evaluation.report.groups import group_by_tag
from ft_pipeline.evaluation.report.outcome import Outcome
from ft_pipeline.evaluation.rules import HELD_OUT
from ft_pipeline.evaluation.scores import ContestantResult
from ft_pipeline.plots import INK, WIDTH_INCHES, dress, plot_loss


class PlotTitle(StrEnum):
    """The pictures, in their order."""

    SCORES = "scores on held-out rows"
    SETS = "scores by set"
    FIDELITY = "divergence and size"
    LENGTHS = "answer length"
    TAGS = "right answers by tag"
    LOSS = "training loss"


# After Okabe and Ito's palette: told apart by the colour-blind, and seen on white and on black. Each has a shape too.
ROLE_COLOURS = {
    "base": "#8591a5", "merged": "#1b9e77", "best": "#b565a7", "champion": "#c27c0e", "challenger": "#3b76e1",
}  # fmt: skip
ROLE_MARKERS = {"base": "v", "merged": "s", "best": "D", "champion": "^", "challenger": "o"}
_MOST_PANELS, _MOST_TAGS, _ROW_INCHES = 4, 12, 0.235


def draw_plots(outcome: Outcome) -> dict[PlotTitle, Any]:
    """Title to a matplotlib figure."""
    draws: dict[PlotTitle, Callable[[Outcome], Any]] = {
        PlotTitle.SCORES: plot_scores,
        PlotTitle.SETS: plot_sets,
        PlotTitle.FIDELITY: plot_fidelity,
        PlotTitle.LENGTHS: plot_lengths,
        PlotTitle.TAGS: plot_tags,
        PlotTitle.LOSS: _plot_loss,
    }
    drawn = {title: draw(outcome) for title, draw in draws.items()}
    return {title: figure for title, figure in drawn.items() if figure is not None}


def plot_scores(outcome: Outcome) -> Any:
    """What decides and a few more measures on held-out rows, everybody with his 95 % interval."""
    chosen = [(name, metric) for name, metric in outcome.choose_figures() if name == HELD_OUT]
    return _plot_estimates(outcome, chosen[:_MOST_PANELS], lambda _, metric: outcome.board.metrics[metric].title)


def plot_sets(outcome: Outcome) -> Any:
    """The main measure of each set but the held-out rows."""
    names = [name for name in outcome.board.set_names if name != HELD_OUT]
    chosen = [(name, metric) for name in names if (metric := outcome.find_main_metric(name))]
    return _plot_estimates(outcome, chosen, lambda name, metric: f"{name}: {outcome.board.metrics[metric].title}")


def _plot_estimates(outcome: Outcome, chosen: Sequence[tuple[str, str]], title: Callable[[str, str], str]) -> Any:
    """A panel for each set and metric, a row for each contestant."""
    drawn = [(one, found) for one in chosen if (found := _find_finite(outcome, *one))]
    if not drawn:
        return None
    heights = [len(found) for _, found in drawn]
    figure, panels = _make_panels(heights)
    for axes, ((name, metric), found) in zip(panels, drawn, strict=True):
        _draw_estimates(axes, outcome, metric, found)
        axes.set_title(_shorten(title(name, metric)), loc="left", fontsize=9.5, color=INK, parse_math=False)
    return figure


def _find_finite(outcome: Outcome, set_name: str, metric: str) -> list[tuple[ContestantResult, float, float, float]]:
    found = []
    for result in outcome.board.results:
        estimate = outcome.board.estimate(result, set_name, metric)
        if estimate and math.isfinite(estimate.value):
            ends = estimate.interval.low, estimate.interval.high
            low, high = ends if all(map(math.isfinite, ends)) else (estimate.value, estimate.value)
            found.append((result, estimate.value, low, high))
    return found


def _draw_estimates(
    axes: Any, outcome: Outcome, name: str, found: Sequence[tuple[ContestantResult, float, float, float]]
) -> None:
    metric = outcome.board.metrics[name]
    scale = 100 if metric.unit == "share" else 1
    for place, (result, value, low, high) in enumerate(found):
        role = result.contestant.role
        axes.plot([scale * low, scale * high], [place, place], color=ROLE_COLOURS[role], linewidth=2.2, alpha=0.55)
        axes.plot(scale * value, place, ROLE_MARKERS[role], color=ROLE_COLOURS[role], markersize=6)
        label = format_metric(metric, value)
        axes.annotate(label, (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color=INK)
    _label_rows(axes, [result.label for result, *_ in found], gated=outcome.board.gated.label)
    left, right = min(low for *_, low, _ in found) * scale, max(high for *_, high in found) * scale
    margin = 0.06 * (right - left) or 0.05 * abs(right) or 0.5
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlim(left - margin, right + margin)
    if metric.unit == "share":  # the margin beside a mark at 0 or 100 % has no ticks
        low, high = max(0, left - margin), min(100, right + margin)
        axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= high])
    axes.grid(axis="x", color=INK, alpha=0.12)


def plot_fidelity(outcome: Outcome) -> Any:
    """KL divergence from the 16-bit model against the file's size."""
    found = [one for one in find_fidelity(outcome.board) if math.isfinite(one.divergence.value)]
    if not found:
        return None
    figure, axes = _make_axes(3.1)
    sizes = [one.result.costs.size_bytes for one in found]
    unit, name = (2**30, "GiB") if max(sizes) >= 2**30 else (2**20, "MiB")
    for one, size in zip(found, sizes, strict=True):
        role, place = one.result.contestant.role, (size / unit, one.divergence.value)
        ends = one.divergence.interval
        if math.isfinite(ends.low) and math.isfinite(ends.high):
            axes.plot([place[0]] * 2, [ends.low, ends.high], color=ROLE_COLOURS[role], linewidth=2.2, alpha=0.55)
        axes.plot(*place, ROLE_MARKERS[role], color=ROLE_COLOURS[role], markersize=6.5)
        label = one.result.contestant.quantization
        label = label if role == "challenger" else f"{label} ({role})"
        axes.annotate(label, place, xytext=(7, 5), textcoords="offset points", fontsize=8.5, color=INK)
    values = [one.divergence.value for one in found]
    if min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
        axes.tick_params(which="minor", length=0)
    else:
        axes.set_ylim(bottom=0)
    axes.margins(x=0.16)
    axes.grid(color=INK, alpha=0.12)
    axes.set_xlabel(f"size of the file ({name})", color=INK, fontsize=9.5)
    axes.set_ylabel("KL divergence (nats per token)", color=INK, fontsize=9.5)
    return figure


def plot_lengths(outcome: Outcome) -> Any:
    """Tokens of the answers to held-out rows: median, the middle half, and 5 % to 95 %; of the references above."""
    board = outcome.board
    asked = [scored for scored in board.gated.sets.get(HELD_OUT, ()) if not scored.fault]
    lengths = {"reference": (INK, "|", [scored.reference_tokens for scored in asked])}
    for result in board.results:
        tokens = [scored.n_tokens for scored in result.sets.get(HELD_OUT, ()) if not scored.fault]
        role = result.contestant.role
        lengths[result.label] = (ROLE_COLOURS[role], ROLE_MARKERS[role], tokens)
    lengths = {label: drawn for label, drawn in lengths.items() if drawn[2]}
    if len(lengths) < 2:
        return None
    figure, (axes,) = _make_panels([len(lengths)], inches=0.27)
    for place, (colour, marker, tokens) in enumerate(lengths.values()):
        least, low, middle, high, most = np.percentile(tokens, [5, 25, 50, 75, 95])
        axes.plot([least, most], [place, place], color=colour, linewidth=1.4)
        axes.plot([low, high], [place, place], color=colour, linewidth=6, alpha=0.4, solid_capstyle="butt")
        axes.plot(middle, place, marker, color=colour, markersize=7)
        axes.annotate(
            f"{middle:,.0f}", (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color=INK
        )
    _label_rows(axes, list(lengths), gated=board.gated.label)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="x", color=INK, alpha=0.12)
    axes.set_xlabel("tokens: median, middle half, 5 % to 95 %", color=INK, fontsize=9.5)
    return figure


def plot_tags(outcome: Outcome) -> Any:
    """Right answers of the challenger and its opponent by tag; nothing where the rows have fewer than two tags."""
    groups = group_by_tag(outcome)[:_MOST_TAGS]
    if len(groups) < 2:
        return None
    board = outcome.board
    shown = [result for result in (board.opponent, board.gated) if result]
    figure, (axes,) = _make_panels([len(groups)], inches=0.27)
    for place, group in enumerate(groups):
        shares = [100 * (group.share(result.label) or 0.0) for result in shown]
        axes.plot([min(shares), max(shares)], [place, place], color=INK, linewidth=1.2, alpha=0.35)
        for result, share in zip(shown, shares, strict=True):
            role = result.contestant.role
            label = result.label if place == 0 else None
            axes.plot(share, place, ROLE_MARKERS[role], color=ROLE_COLOURS[role], markersize=6.5, label=label)
    _label_rows(axes, [f"{_shorten(group.name, 24)} ({group.size})" for group in groups])
    axes.set_xlim(-3, 103)
    axes.grid(axis="x", color=INK, alpha=0.12)
    axes.set_xlabel("right answers (% of rows)", color=INK, fontsize=9.5)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8.5, labelcolor=INK)
    return figure


def _plot_loss(outcome: Outcome) -> Any:
    history = outcome.request.loss_history
    return plot_loss(history) if any(math.isfinite(point.get("loss", math.nan)) for point in history) else None


def _make_axes(height_inches: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    axes = figure.add_subplot()
    dress(axes)
    return figure, axes


def _make_panels(rows: Sequence[int], inches: float = _ROW_INCHES) -> tuple[Any, list[Any]]:
    """Panels one below the other, each as high as its rows ask."""
    from matplotlib.figure import Figure

    heights = [0.62 + inches * count for count in rows]
    figure: Any = Figure(figsize=(WIDTH_INCHES, sum(heights)), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08)
    panels = figure.subplots(len(rows), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes in panels:
        dress(axes)
    return figure, list(panels)


def _label_rows(axes: Any, labels: Sequence[str], gated: str = "") -> None:
    axes.set_yticks(range(len(labels)), [_plain(label) for label in labels], parse_math=False)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    for tick, label in zip(axes.get_yticklabels(), labels, strict=True):
        tick.set_fontweight("bold" if label == gated else "normal")


def _shorten(text: str, most: int = 56) -> str:
    text = _plain(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _plain(text: str) -> str:
    """A name that can be drawn, without keys: no font, and no XML, has control characters."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in redact(text))
