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


def plot_loss(history: Sequence[dict[str, float]]) -> Any:
    """Training loss over optimizer steps. A matplotlib figure."""
    from matplotlib.figure import Figure

    points = [(entry["step"], entry["loss"]) for entry in history if math.isfinite(entry.get("loss", math.nan))]
    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    figure = Figure(figsize=(WIDTH_INCHES, 2.9), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, losses, color=ACCENT, linewidth=1.6)
    if losses and min(losses) > 0 and max(losses) > 10 * min(losses):
        axes.set_yscale("log")
    dress(axes)
    axes.grid(color=INK, alpha=0.12)
    axes.set_xlabel("optimizer step", color=INK, fontsize=9.5)
    axes.set_ylabel("loss (nats per token)", color=INK, fontsize=9.5)
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
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    label = Markup('<svg role="img" aria-label="{}"').format(title)
    # Matplotlib escapes the texts that it is given.
    return Markup(svg.replace("<svg", label, 1))  # noqa: S704


def dress(axes: Any) -> None:
    """The frame, ticks and ink that all pictures share."""
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.tick_params(colors=INK, labelsize=9, which="both")
