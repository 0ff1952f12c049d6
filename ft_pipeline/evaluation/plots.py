"""Pictures of an evaluation: as PNG for Dagster, as inline SVG in the colours of the page for the report."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ft_pipeline.evaluation.scores import ContestantResult, Scoreboard

ROLE_COLOURS = {"base": "#8591a5", "champion": "#c98a1b", "challenger": "#3b76e1"}
_WIDTH_INCHES = 4.7
# Stands for the colour of the page's text; the SVG says `currentColor` in its place.
_INK = "#1a1b1e"


def plot_exact_match(board: Scoreboard) -> Any:
    """One bar a contestant in each set, with its 95 % interval. A matplotlib figure."""
    from matplotlib.figure import Figure

    names, contestants = board.set_names, len(board.results)
    figure = Figure(figsize=(_WIDTH_INCHES, 0.7 + len(names) * (0.4 + 0.27 * contestants)), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, names, strict=True):
        for place, result in enumerate(board.results):
            _draw_bar(axes, place, result, name)
        _dress(axes)
        axes.set_title(f"{name}, {len(board.gated.sets[name])} rows", loc="left", fontsize=10, color=_INK)
        axes.set_yticks(range(contestants), [result.label for result in board.results])
        axes.set(xlim=(0, 119), ylim=(contestants - 0.4, -0.6), xticks=range(0, 101, 25))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=_INK, alpha=0.12)
    panels[-1].set_xlabel("exact match (% of rows), with 95 % interval", color=_INK, fontsize=9.5)
    return figure


def plot_loss(history: Sequence[dict[str, float]]) -> Any:
    """Training loss over optimizer steps. A matplotlib figure."""
    from matplotlib.figure import Figure

    points = [(entry["step"], entry["loss"]) for entry in history if math.isfinite(entry.get("loss", math.nan))]
    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    figure = Figure(figsize=(_WIDTH_INCHES, 2.9), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, losses, color=ROLE_COLOURS["challenger"], linewidth=1.6)
    if losses and min(losses) > 0 and max(losses) > 10 * min(losses):
        axes.set_yscale("log")
    _dress(axes)
    axes.grid(color=_INK, alpha=0.12)
    axes.set_xlabel("optimizer step", color=_INK, fontsize=9.5)
    axes.set_ylabel("loss (nats per token)", color=_INK, fontsize=9.5)
    return figure


def save_png(figure: Any, path: Path) -> None:
    """Write the figure on white."""
    figure.savefig(path, dpi=140, facecolor="white")


def to_inline_svg(figure: Any, title: str) -> Markup:
    """The figure as an SVG element without a ground, its ink in the colour of the text around it."""
    import matplotlib

    buffer = io.StringIO()
    # A fixed salt: the same figure gives the same ids. Texts stay texts, in the page's own font.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    label = Markup('<svg role="img" aria-label="{}"').format(title)
    # Matplotlib escapes the texts that it is given.
    return Markup(svg.replace("<svg", label, 1))  # noqa: S704


def _draw_bar(axes: Any, place: int, result: ContestantResult, set_name: str) -> None:
    estimate = result.scores[set_name]["exact_match"]
    if estimate is None:
        return
    value, low, high = (100 * share for share in (estimate.value, estimate.interval.low, estimate.interval.high))
    colour = ROLE_COLOURS[result.contestant.role]
    axes.barh(place, value, height=0.62, color=colour)
    if high > low:
        whiskers = [[max(0.0, value - low)], [max(0.0, high - value)]]
        axes.errorbar(value, place, xerr=whiskers, color=_INK, linewidth=1.1, capsize=2.5)
    axes.text(118, place, f"{value:.1f}", ha="right", va="center", fontsize=9, color=_INK)


def _dress(axes: Any) -> None:
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_INK)
    axes.tick_params(colors=_INK, labelsize=9, which="both")
