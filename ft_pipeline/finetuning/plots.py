"""Pictures of a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def plot_loss(history: Sequence[dict[str, float]], path: Path) -> None:
    """Loss over optimizer steps, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        [entry["step"] for entry in history], [entry["loss"] for entry in history], color="#2563eb", linewidth=1.6
    )
    axes.set(xlabel="optimizer step", ylabel="loss on completions (nats per token)", yscale="log")
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
