"""Histograms of lengths."""

from __future__ import annotations

from typing import Any

import numpy as np

from ft_pipeline.datasets.report.figures import DataFigures
from ft_pipeline.datasets.report.tally import Tally, merge
from ft_pipeline.datasets.sources import TRAINING_SET
from ft_pipeline.datasets.validated import HELD_OUT
from ft_pipeline.plots import ACCENT, INK, WIDTH_INCHES, dress

_BINS, _LEAST_BINS = 40, 5
_SECOND = "#c98a1b"
_GREY = "#8591a5"


def plot_all(figures: DataFigures) -> dict[str, Any]:
    """Title to matplotlib figure."""
    sides = {"training": (figures.sets[TRAINING_SET], ACCENT), "held out": (figures.sets[HELD_OUT], _SECOND)}
    plots = {
        "Tokens per row": plot_lengths({name: (side.tokens, paint) for name, (side, paint) in sides.items()}, "tokens"),
        "Learned tokens per row": plot_lengths(
            {name: (side.learned, paint) for name, (side, paint) in sides.items()}, "learned (completion) tokens"
        ),
        "Turns per row": plot_lengths({name: (side.turns, paint) for name, (side, paint) in sides.items()}, "turns"),
    }
    if figures.drift:
        now = merge([side.tokens for side, _ in sides.values()])
        plots["Tokens per row, before and now"] = plot_lengths(
            {"before": (figures.drift.tokens_before, _GREY), "now": (now, ACCENT)}, "tokens"
        )
    return plots


def plot_lengths(tallies: dict[str, tuple[Tally, str]], label: str) -> Any:
    """Share of rows over a length, one outline a tally. A matplotlib figure.

    Lengths beyond the 99.5 % quantile are left out where they would leave the others no room; the axis says so.

    Args:
        tallies: Name to lengths and colour; empty ones are not drawn.
        label: What is counted.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    shown = {name: (tally, colour) for name, (tally, colour) in tallies.items() if tally.total}
    edges, longest = _choose_edges([tally for tally, _ in shown.values()])
    figure = Figure(figsize=(WIDTH_INCHES, 2.9), layout="constrained")
    axes = figure.add_subplot()
    for name, (tally, colour) in shown.items():
        values, _ = np.histogram(np.arange(len(tally.counts)), bins=edges, weights=tally.counts)
        shares = 100 * values / tally.total
        axes.stairs(shares, edges, fill=True, color=colour, alpha=0.3)
        axes.stairs(shares, edges, color=colour, linewidth=1.4, label=f"{name}, {tally.total:,} rows")
    dress(axes)
    axes.grid(axis="y", color=INK, alpha=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_ylim(bottom=0)
    note = f"; the longest, {longest:,}, is not shown" if longest > edges[-1] else ""
    axes.set_xlabel(f"{label}{note}", color=INK, fontsize=9.5)
    axes.set_ylabel("share of rows (%)", color=INK, fontsize=9.5)
    if shown:
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    return figure


def _choose_edges(tallies: list[Tally]) -> tuple[Any, int]:
    """Edges halfway between whole numbers, so that each number lies in one bin; and the longest length."""
    longest = max((tally.largest or 0 for tally in tallies), default=0)
    usual = max((tally.quantile(0.995) or 0 for tally in tallies), default=0)
    high = longest if longest <= 2 * usual else usual
    low = min((int(np.flatnonzero(tally.counts)[0]) for tally in tallies), default=0)
    spread = max(high - low + 1, _LEAST_BINS)
    low = max(0, low - (spread - (high - low + 1)) // 2)
    width = -(-spread // _BINS)
    high = max(high, low + spread - 1)
    return np.arange(low, high + width + 1, width) - 0.5, longest
