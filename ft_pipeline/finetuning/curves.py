"""A training's figures over its steps: kept for the plots, written for TensorBoard, W&B and MLflow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ft_pipeline.errors import ResourceError
from ft_pipeline.finetuning.tracker_check import hide_secrets

Point = dict[str, float]
# More points than a plot has pixels, and as much as a checkpoint should carry.
MAX_POINTS = 2000
_PROJECT = "ft_pipeline"


class Curves:
    """One point a step; of a long training fewer, so that their number stays under `MAX_POINTS`.

    First and last point, the extremes of each figure and all points with a held-out loss stay. What is left out hangs
    on the points alone: a training that was cut off and goes on has the same curves as an undisturbed one.
    """

    def __init__(self) -> None:
        self._points: list[Point] = []

    def add(self, point: Mapping[str, float]) -> None:
        """Add a step's figures: `step`, `loss`, and whatever else has a name with a unit."""
        self._points.append(dict(point))
        if len(self._points) > MAX_POINTS:
            self._points = _thin(self._points, MAX_POINTS // 2)

    def as_history(self) -> list[Point]:
        """The points in the order of their steps; JSON."""
        return [dict(point) for point in self._points]

    def restore(self, history: Sequence[Mapping[str, float]]) -> None:
        """Go on from a checkpoint."""
        self._points = [dict(point) for point in history]


class Log(Protocol):
    """Where figures are written to while the training goes on."""

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the figures of a step."""

    def close(self) -> None:
        """Write what is still held back."""


class TensorBoardLog:
    """Event files that TensorBoard reads.

    Args:
        folder: Where they go.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder), flush_secs=10)

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the figures of a step."""
        for name, value in scalars.items():
            self._writer.add_scalar(f"training/{name}", value, step)

    def close(self) -> None:
        """Write what is still held back."""
        self._writer.close()


class WandbLog:
    """A run of Weights & Biases; where to is said by its own settings (WANDB_MODE, WANDB_DIR, `wandb login`).

    Args:
        name: What the run is called.
    """

    def __init__(self, name: str) -> None:
        import wandb

        self._run = wandb.init(project=_PROJECT, name=name)

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the figures of a step."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Write what is still held back."""
        self._run.finish()


class MlflowLog:
    """A run of MLflow; where to is said by its own settings (MLFLOW_TRACKING_URI).

    Args:
        name: What the run is called.
    """

    def __init__(self, name: str) -> None:
        import mlflow

        mlflow.set_experiment(_PROJECT)
        mlflow.start_run(run_name=name)
        self._mlflow = mlflow

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the figures of a step, without waiting for the server."""
        self._mlflow.log_metrics(dict(scalars), step=step, synchronous=False)

    def close(self) -> None:
        """Write what is still held back."""
        self._mlflow.flush_async_logging()
        self._mlflow.end_run()


# Also the name of the package.
TRACKERS: dict[str, Callable[[str], Log]] = {"wandb": WandbLog, "mlflow": MlflowLog}


def open_logs(trackers: Sequence[str], folder: Path, name: str) -> list[Log]:
    """TensorBoard's files in `folder`, and a run of each tracker that is called `name`.

    Raises:
        ResourceError: a tracker begins no run, though it took us before the device was held.
    """
    return [TensorBoardLog(folder), *(_begin(tracker, name) for tracker in trackers)]


def _begin(tracker: str, name: str) -> Log:
    try:
        return TRACKERS[tracker](name)
    except Exception as err:  # whatever its network and server do
        raise ResourceError(
            f"training.execution.trackers must begin a run, {tracker} does not: {hide_secrets(str(err))}. Mend what it "
            "names, or leave it out of the recipe."
        ) from err


def _thin(points: list[Point], most: int) -> list[Point]:
    """About `most` points: those that must stay, and of each stretch of steps the lowest and the highest loss.

    Stretches are of equal numbers of steps, not of points: what was thinned before does not get thinner than the rest.
    """
    kept = {index for index, point in enumerate(points) if "held_out_loss" in point}
    # `step` is among the names: its extremes are the ends.
    for name in {name for point in points for name in point}:
        kept.update(_extremes(points, range(len(points)), name))
    first, last = points[0]["step"], points[-1]["step"]
    stretches: dict[int, list[int]] = {}
    count = max(1, (most - len(kept)) // 2)
    for index, point in enumerate(points):
        stretches.setdefault(int((point["step"] - first) * count / (last - first + 1)), []).append(index)
    for stretch in stretches.values():
        kept.update(_extremes(points, stretch, "loss"))
    return [points[index] for index in sorted(kept)]


def _extremes(points: list[Point], indices: Sequence[int], name: str) -> set[int]:
    finite = [index for index in indices if math.isfinite(points[index].get(name, math.nan))]
    if not finite:
        return set()
    return {min(finite, key=lambda index: points[index][name]), max(finite, key=lambda index: points[index][name])}
