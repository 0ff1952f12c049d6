"""A training's figures: kept, drawn, and written for TensorBoard and the trackers."""

from __future__ import annotations

import itertools
import json
import math
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ft_pipeline.errors import ResourceError
from ft_pipeline.finetuning.curves import MAX_POINTS, TRACKERS, Curves, Point, open_logs
from ft_pipeline.plots import plot_learning_rate, plot_loss, plot_memory, plot_throughput, save_training_plots
from ft_pipeline.recipe import ExecutionSection
from ft_pipeline_tests.finetuning.event_files import read_events


def make_points(count: int, *, held_out_every: int = 1000) -> list[Point]:
    rng = random.Random(1)
    points: list[Point] = []
    for step in range(1, count + 1):
        point = {
            "step": step,
            "loss": 3 * math.exp(-step / count) + rng.gauss(0, 0.1),
            "learning_rate": 2e-4 * (1 - step / count),
            "grad_norm": rng.random(),
            "tokens_per_second": 9000 + rng.gauss(0, 100),
            "vram_gib": min(6.0, step / 1000),
            "seconds": step * 0.5,
        }
        points.append(point | ({"held_out_loss": point["loss"] + 0.2} if step % held_out_every == 0 else {}))
    return points


def fill(points: list[Point]) -> Curves:
    curves = Curves()
    for point in points:
        curves.add(point)
    return curves


# Kept


def test_a_short_training_keeps_every_point() -> None:
    points = make_points(MAX_POINTS)
    assert fill(points).as_history() == points


@pytest.fixture(scope="module")
def long_training() -> list[Point]:
    return make_points(20_000)


def test_a_long_training_keeps_a_share_of_its_points_as_they_were_and_in_order(long_training: list[Point]) -> None:
    history = fill(long_training).as_history()
    assert MAX_POINTS // 4 < len(history) <= MAX_POINTS
    assert all(point == long_training[int(point["step"]) - 1] for point in history)
    steps = [point["step"] for point in history]
    assert steps == sorted(set(steps))


def test_ends_extremes_and_held_out_points_stay(long_training: list[Point]) -> None:
    history = fill(long_training).as_history()
    assert [history[0], history[-1]] == [long_training[0], long_training[-1]]
    for name in ("loss", "grad_norm", "tokens_per_second", "vram_gib"):
        for extreme in (min, max):
            value = extreme(point[name] for point in long_training)
            assert value in [point[name] for point in history]
    assert sum("held_out_loss" in point for point in history) == 20


def test_no_part_of_a_long_training_is_left_out(long_training: list[Point]) -> None:
    steps = [point["step"] for point in fill(long_training).as_history()]
    assert max(later - earlier for earlier, later in itertools.pairwise(steps)) < 20_000 / 100


@pytest.mark.parametrize("cut_after", [10, MAX_POINTS, MAX_POINTS + 1, 7000])
def test_a_training_that_goes_on_has_the_curves_of_an_undisturbed_one(
    long_training: list[Point], cut_after: int
) -> None:
    before = fill(long_training[:cut_after])
    after = Curves()
    after.restore(json.loads(json.dumps(before.as_history())))
    for point in long_training[cut_after:]:
        after.add(point)
    assert after.as_history() == fill(long_training).as_history()


# Drawn


def drawn(figure: Any) -> list[tuple[list[float], list[float]]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[0].lines]


def test_the_loss_plot_shows_both_losses_where_there_are_both() -> None:
    points = make_points(4, held_out_every=2)
    training, held_out = drawn(plot_loss(points))
    assert training == ([1, 2, 3, 4], [point["loss"] for point in points])
    assert held_out == ([2, 4], [points[1]["held_out_loss"], points[3]["held_out_loss"]])
    assert [text.get_text() for text in plot_loss(points).axes[0].get_legend().get_texts()] == [
        "training rows",
        "held-out rows",
    ]


def test_the_loss_plot_has_one_line_and_no_legend_without_held_out_rows() -> None:
    figure = plot_loss(make_points(4))
    assert len(drawn(figure)) == 1
    assert figure.axes[0].get_legend() is None


@pytest.mark.parametrize(
    ("plot", "name", "label"),
    [
        (plot_learning_rate, "learning_rate", "learning rate"),
        (plot_throughput, "tokens_per_second", "real tokens per second"),
        (plot_memory, "vram_gib", "peak reserved VRAM (GiB)"),
    ],
)
def test_each_figure_is_drawn_over_steps_with_its_unit(plot: Any, name: str, label: str) -> None:
    points = make_points(3)
    points[1][name] = math.nan
    figure = plot(points)
    assert drawn(figure) == [([1, 3], [points[0][name], points[2][name]])]
    assert figure.axes[0].get_ylabel() == label


def test_only_figures_that_were_taken_are_drawn(tmp_path: Path) -> None:
    on_a_cpu = [{name: value for name, value in point.items() if name != "vram_gib"} for point in make_points(3)]
    plots = save_training_plots(on_a_cpu, tmp_path)
    assert list(plots) == ["loss", "learning rate", "throughput"]
    assert sorted(plots.values()) == sorted(path.name for path in tmp_path.iterdir())
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in plots.values())
    assert "memory" in save_training_plots(make_points(3), tmp_path)


# Written


def test_tensorboard_files_hold_every_figure_of_every_step(tmp_path: Path) -> None:
    (log,) = open_logs((), tmp_path / "tensorboard", "a run")
    for step in (1, 2):
        log.add(step, {"loss": step / 2, "held_out_loss": 4.0})
    log.close()
    assert list(read_events(tmp_path / "tensorboard")) == [
        (1, "training/loss", 0.5),
        (1, "training/held_out_loss", 4.0),
        (2, "training/loss", 1.0),
        (2, "training/held_out_loss", 4.0),
    ]


class Recorder(ModuleType):
    """Stands for a tracker's package: notes each call of it and of what its calls give."""

    def __init__(self, name: str, calls: list[Any] | None = None) -> None:
        super().__init__(name)
        self.calls: list[Any] = [] if calls is None else calls

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Recorder:
            self.calls.append((name, *args, kwargs))
            return Recorder(name, self.calls)

        return call


@pytest.mark.parametrize(
    ("tracker", "expected"),
    [
        (
            "wandb",
            [
                ("init", {"project": "ft_pipeline", "name": "a run"}),
                ("log", {"loss": 2.0}, {"step": 7}),
                ("finish", {}),
            ],
        ),
        (
            "mlflow",
            [
                ("set_experiment", "ft_pipeline", {}),
                ("start_run", {"run_name": "a run"}),
                ("log_metrics", {"loss": 2.0}, {"step": 7, "synchronous": False}),
                ("flush_async_logging", {}),
                ("end_run", {}),
            ],
        ),
    ],
)
def test_a_tracker_gets_the_figures_beside_tensorboard(
    tracker: str, expected: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Recorder(tracker)
    monkeypatch.setitem(sys.modules, tracker, package)
    logs = open_logs((tracker,), tmp_path, "a run")
    for log in logs:
        log.add(7, {"loss": 2.0})
        log.close()
    assert package.calls == expected
    assert list(read_events(tmp_path)) == [(7, "training/loss", 2.0)]


def test_a_tracker_that_begins_no_run_is_one_error_without_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise OSError("key topsecret may not write to this project")

    package = ModuleType("wandb")
    package.init = refuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.setenv("WANDB_API_KEY", "topsecret")
    with pytest.raises(ResourceError, match=r"wandb does not: key \*\*\* may not write to this project\. Mend what"):
        open_logs(("wandb",), tmp_path, "a run")


def test_every_tracker_that_a_recipe_may_name_is_there() -> None:
    assert ExecutionSection(trackers=("wandb", "mlflow")).trackers == tuple(TRACKERS)
    with pytest.raises(ValueError, match="wandb"):
        ExecutionSection.model_validate({"trackers": ["neptune"]})
