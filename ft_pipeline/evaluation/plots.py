"""The evaluation's own picture."""

from __future__ import annotations

from typing import Any

from ft_pipeline.evaluation.scores import ContestantResult, Scoreboard
from ft_pipeline.plots import ACCENT, INK, WIDTH_INCHES, dress

ROLE_COLOURS = {"base": "#8591a5", "champion": "#c98a1b", "challenger": ACCENT}


def plot_exact_match(board: Scoreboard) -> Any:
    """One bar a contestant in each set, with its 95 % interval. A matplotlib figure."""
    from matplotlib.figure import Figure

    names, contestants = board.set_names, len(board.results)
    figure = Figure(figsize=(WIDTH_INCHES, 0.7 + len(names) * (0.4 + 0.27 * contestants)), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, names, strict=True):
        for place, result in enumerate(board.results):
            _draw_bar(axes, place, result, name)
        dress(axes)
        axes.set_title(f"{name}, {len(board.gated.sets[name])} rows", loc="left", fontsize=10, color=INK)
        axes.set_yticks(range(contestants), [result.label for result in board.results])
        axes.set(xlim=(0, 119), ylim=(contestants - 0.4, -0.6), xticks=range(0, 101, 25))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=INK, alpha=0.12)
    panels[-1].set_xlabel("exact match (% of rows), with 95 % interval", color=INK, fontsize=9.5)
    return figure


def _draw_bar(axes: Any, place: int, result: ContestantResult, set_name: str) -> None:
    estimate = result.scores[set_name]["exact_match"]
    if estimate is None:
        return
    value, low, high = (100 * share for share in (estimate.value, estimate.interval.low, estimate.interval.high))
    colour = ROLE_COLOURS[result.contestant.role]
    axes.barh(place, value, height=0.62, color=colour)
    if high > low:
        whiskers = [[max(0.0, value - low)], [max(0.0, high - value)]]
        axes.errorbar(value, place, xerr=whiskers, color=INK, linewidth=1.1, capsize=2.5)
    axes.text(118, place, f"{value:.1f}", ha="right", va="center", fontsize=9, color=INK)
