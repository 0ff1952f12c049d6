"""What is found out before the device is held, so that a wrong recipe never waits for it; and the plan, once it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from ft_pipeline.base_model import read_config
from ft_pipeline.datasets.validated import find_held_out, read_row_lengths
from ft_pipeline.disk_space import require_space
from ft_pipeline.errors import TrainingError
from ft_pipeline.finetuning.architecture import Architecture, read_architecture
from ft_pipeline.finetuning.cards import match_card
from ft_pipeline.finetuning.device import Device, find_device
from ft_pipeline.finetuning.disk_need import count_disk_bytes
from ft_pipeline.finetuning.job import Job, TrainRequest
from ft_pipeline.finetuning.layouts import Goal
from ft_pipeline.finetuning.memory import DeviceKind, Layout, count_trainable
from ft_pipeline.finetuning.neighbours import describe_neighbours, list_neighbours
from ft_pipeline.finetuning.planner import RowLengths, TrainingPlan, plan_training
from ft_pipeline.finetuning.schedule import Rows, make_steps
from ft_pipeline.finetuning.tracker_check import require_trackers
from ft_pipeline.recipe import TrainingSection

# Without early stopping, which says for itself how many it tries.
_HELD_OUT_ROWS = 256
# Of the recipe's execution section: another layout is wanted when one of them changes.
_LAYOUT_SETTINGS = ("packing", "gradient_checkpointing", "micro_batch_tokens")


@dataclass(frozen=True)
class Preflight:
    """What does not hang on who else uses the device.

    Attributes:
        lengths: Tokens of each training row.
        steps: Row indices of each optimizer step.
        held_out: Row indices of what the held-out loss is computed on, in order; empty if nothing is held out.
        longest_row_tokens: Of the rows that are trained on and of those in `held_out`.
        optimizer: What `auto` comes to on this device, paged or not.
    """

    device: Device
    architecture: Architecture
    lengths: list[int]
    steps: list[Rows]
    held_out: Rows
    longest_row_tokens: int
    optimizer: str


def examine(request: TrainRequest) -> Preflight:
    """Check what can be checked without the device.

    Raises:
        ResourceError: the device is not there or not fit.
        BaseModelError: the base is of a family that is not known.
        TrainingError: unknown target modules, a rank above the hidden size, fewer rows than one step, or nothing to
            learn in them.
        MemoryBudgetError: the device is too small even when nobody else uses it.
        DiskSpaceError: the disk does not hold the checkpoints and the adapter.
        EnvironmentMismatch: a tracker's package is missing.
        ResourceError: a tracker does not answer, or does not take us.
    """
    settings = request.settings
    device = find_device(request.gpu.device)
    architecture = read_architecture(read_config(request.base))
    count_trainable(architecture, settings)
    lengths, held_out_lengths = read_row_lengths(request.rows), read_row_lengths(request.held_out)
    steps = make_steps(lengths, settings.effective_batch_tokens, settings.epochs, settings.seed)
    _require_targets(request.rows)
    held_out = _choose_held_out(request.held_out, settings)
    longest = max(lengths + [held_out_lengths[row] for row in held_out])
    _, planned = _plan(architecture, lengths, device, request, device.total_bytes)
    tokens = sum(lengths) + sum(held_out_lengths)
    _require_disk(request, count_disk_bytes(architecture, settings, planned.layout.optimizer, tokens))
    require_trackers(settings.execution.trackers)
    return Preflight(device, architecture, lengths, steps, held_out, longest, planned.layout.optimizer)


def _require_targets(rows: Path) -> None:
    # A row's first token is never predicted.
    is_learned = (pl.col("labels").list.slice(1).list.max() >= 0).any()
    if not pl.scan_parquet(rows, glob=False).select(is_learned).collect().item():
        raise TrainingError(
            f"the training rows must have at least one token that is learned, got none in {rows}: every label is "
            "masked. Look at their answers and at dataset.loss_on."
        )


def _choose_held_out(path: Path, settings: TrainingSection) -> Rows:
    stopping = settings.early_stopping
    held_out = tuple(find_held_out(path)[: stopping.max_rows if stopping else _HELD_OUT_ROWS])
    if stopping and not held_out:
        raise TrainingError(
            "training.early_stopping needs held-out rows with answers, got none. Add data or leave it out."
        )
    return held_out


def _require_disk(request: TrainRequest, size_bytes: int) -> None:
    """What an earlier run has left is written over, so it counts as free."""
    there = sum(path.stat().st_size for path in request.checkpoints.rglob("*") if path.is_file())
    require_space(request.checkpoints, size_bytes - there, "a training with its checkpoints and its adapter")


def plan(
    found: Preflight,
    device: Device,
    request: TrainRequest,
    scratch: Path,
    *,
    progress: Mapping[str, Any] | None,
    tell: Callable[[str], None],
) -> Job:
    """The plan for what is free on the device now.

    Args:
        found: What was found before.
        device: As it is now.
        request: What is asked for.
        scratch: Folder for what is not kept.
        progress: Of the run that this one goes on from: if its layout still serves, nothing is rounded otherwise.
        tell: Called with sentences for the log.

    Raises:
        MemoryBudgetError: it does not fit; the message says by how much and what would.
    """
    for sentence in (*device.notes, *describe_neighbours(list_neighbours(device.name))):
        tell(sentence)
    goal, planned = _plan(found.architecture, found.lengths, device, request, device.free_bytes)
    if progress and _wants_same_layout(progress, device, request):
        planned = _take_over(Layout(**progress["layout"]), planned, goal, _budget(request, device.free_bytes))
    tell(f"training on {device.label}: {planned.describe()}")
    for note in planned.notes:
        tell(note)
    return Job(
        base=request.base,
        settings=request.settings,
        device=device,
        plan=planned,
        max_row_tokens=found.longest_row_tokens,
        scratch=scratch,
        vram_limit_bytes=request.gpu.vram_limit_bytes,
    )


def _wants_same_layout(progress: Mapping[str, Any], device: Device, request: TrainRequest) -> bool:
    asked, before = request.settings.execution.model_dump(mode="json"), progress["execution"]
    is_same_kind = progress.get("is_gpu") == device.is_gpu  # not in older checkpoints
    return is_same_kind and all(before[name] == asked[name] for name in _LAYOUT_SETTINGS)


def _take_over(earlier: Layout, planned: TrainingPlan, goal: Goal, budget_bytes: int) -> TrainingPlan:
    """The plan with the earlier layout, if that still serves."""
    memory = goal.predict_memory(earlier)
    if earlier.optimizer != planned.layout.optimizer or memory.total_bytes > budget_bytes:
        return planned
    return replace(
        planned,
        layout=earlier,
        memory=memory,
        accumulation_steps=goal.count_passes(earlier),
        time=goal.predict_time(earlier) if goal.card else None,
    )


def _plan(
    architecture: Architecture, row_tokens: list[int], device: Device, request: TrainRequest, there_bytes: int
) -> tuple[Goal, TrainingPlan]:
    kind: DeviceKind = "gpu" if device.is_gpu else "cpu"
    card, lengths = match_card(device.label), RowLengths.of(row_tokens)
    goal = Goal(architecture, request.settings, lengths, kind, card)
    budget = _budget(request, there_bytes)
    return goal, plan_training(architecture, request.settings, lengths, budget, kind, card)


def _budget(request: TrainRequest, there_bytes: int) -> int:
    return min(there_bytes, request.gpu.vram_limit_bytes or there_bytes)
