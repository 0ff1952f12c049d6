"""Pictures with matplotlib: as PNG for Dagster, as inline SVG in the colours of the page for the report."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

WIDTH_INCHES = 4.7
# Stands for the colour of the page's text; the SVG says `currentColor` in its place.
INK = "#1a1b1e"
ACCENT = "#3b76e1"
SECOND = "#c98a1b"


def plot_loss(history: Sequence[dict[str, float]]) -> Any:
    """Training loss over optimizer steps, and the held-out loss where it was computed. A matplotlib figure."""
    figure, axes = _plot_over_steps(history, "loss", "loss (nats per token)")
    steps, held_out = _select(history, "held_out_loss")
    if steps:
        axes.plot(steps, held_out, color=SECOND, linewidth=1.2, marker="o", markersize=4, label="held-out rows")
        axes.lines[0].set_label("training rows")
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    losses = [loss for line in axes.lines for loss in line.get_ydata()]
    if losses and min(losses) > 0 and max(losses) > 10 * min(losses):
        axes.set_yscale("log")
    return figure


def plot_learning_rate(history: Sequence[dict[str, float]]) -> Any:
    """Learning rate over optimizer steps. A matplotlib figure."""
    figure, axes = _plot_over_steps(history, "learning_rate", "learning rate")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes.yaxis.get_offset_text().set(color=INK, fontsize=9)
    return figure


def plot_throughput(history: Sequence[dict[str, float]]) -> Any:
    """Real tokens a second of each optimizer step. A matplotlib figure."""
    figure, axes = _plot_over_steps(history, "tokens_per_second", "real tokens per second")
    axes.set_ylim(bottom=0)
    return figure


def plot_memory(history: Sequence[dict[str, float]]) -> Any:
    """Most GPU memory held so far, over optimizer steps. A matplotlib figure."""
    figure, axes = _plot_over_steps(history, "vram_gib", "peak reserved VRAM (GiB)")
    axes.set_ylim(bottom=0)
    return figure


# Title, figure of the history, file, how it is drawn.
_TRAINING_PLOTS = (
    ("loss", "loss", "loss.png", plot_loss),
    ("learning rate", "learning_rate", "learning_rate.png", plot_learning_rate),
    ("throughput", "tokens_per_second", "throughput.png", plot_throughput),
    ("memory", "vram_gib", "memory.png", plot_memory),
)


def save_training_plots(history: Sequence[dict[str, float]], folder: Path) -> dict[str, str]:
    """Draw what the history has figures of.

    Returns:
        Title to the name of a PNG file in the folder.
    """
    drawn = {}
    for title, name, file, draw in _TRAINING_PLOTS:
        if any(name in point for point in history):
            save_png(draw(history), folder / file)
            drawn[title] = file
    return drawn


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
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = _keep_needed_ids(re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL))
    label = Markup('<svg role="img" aria-label="{}"').format(title)
    # Matplotlib escapes the texts that it is given.
    return Markup(svg.replace("<svg", label, 1))  # noqa: S704


def _keep_needed_ids(svg: str) -> str:
    """Without the ids that nothing refers to: they are the same in every figure. The others hang on the salt."""
    needed = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    return re.sub(r'(<\w[^<>]*?) id="([^"]*)"', lambda match: match[0] if match[2] in needed else match[1], svg)


def dress(axes: Any) -> None:
    """The frame, ticks and ink that all pictures share."""
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.tick_params(colors=INK, labelsize=9, which="both")


def _plot_over_steps(history: Sequence[dict[str, float]], name: str, label: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, 2.9), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*_select(history, name), color=ACCENT, linewidth=1.6)
    dress(axes)
    axes.grid(color=INK, alpha=0.12)
    axes.set_xlabel("optimizer step", color=INK, fontsize=9.5)
    axes.set_ylabel(label, color=INK, fontsize=9.5)
    return figure, axes


def _select(history: Sequence[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    points = [(entry["step"], entry[name]) for entry in history if math.isfinite(entry.get(name, math.nan))]
    return [step for step, _ in points], [value for _, value in points]
