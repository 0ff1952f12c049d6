"""What is found out before the device is held, so that a wrong recipe never waits for it; and the plan, once it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Preflight:
    """What does not hang on who else uses the device.

    Attributes:
        lengths: Tokens of each training row.
        steps: Row indices of each optimizer step.
        held_out: Row indices of what the loss is computed on, in order; empty if nothing is held out.
        longest_row_tokens: Of training and held-out rows.
    """

    device: Device
    architecture: Architecture
    lengths: list[int]
    steps: list[Rows]
    held_out: Rows
    longest_row_tokens: int


def examine(request: TrainRequest) -> Preflight:
    """Check what can be checked without the device.

    Raises:
        ResourceError: the device is not there or not fit.
        BaseModelError: the base is of a family that is not known.
        TrainingError: unknown target modules, a rank above the hidden size, or fewer rows than one step.
        MemoryBudgetError: the device is too small even when nobody else uses it.
        DiskSpaceError: the disk does not hold the checkpoints and the adapter.
        EnvironmentMismatch: a tracker's package is missing.
        ResourceError: a tracker does not answer, or does not take us.
    """
    settings = request.settings
    device = find_device(request.device)
    architecture = read_architecture(read_config(request.base))
    count_trainable(architecture, settings)
    lengths, held_out_lengths = read_row_lengths(request.rows), read_row_lengths(request.held_out)
    steps = make_steps(lengths, settings.effective_batch_tokens, settings.epochs, settings.seed)
    held_out = find_held_out(request.held_out)
    if settings.early_stopping and not held_out:
        raise TrainingError(
            "training.early_stopping needs held-out rows with answers, got none. Add data or leave it out."
        )
    found = Preflight(device, architecture, lengths, steps, tuple(held_out), max(lengths + held_out_lengths))
    _, planned = _plan(found, device, request, device.total_bytes)
    tokens = sum(lengths) + sum(held_out_lengths)
    _require_disk(request, count_disk_bytes(architecture, settings, planned.layout.optimizer, tokens))
    require_trackers(settings.execution.trackers)
    return found


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
    goal, planned = _plan(found, device, request, device.free_bytes)
    if progress and progress["execution"] == request.settings.execution.model_dump(mode="json"):
        earlier = Layout(**progress["layout"])
        memory = goal.predict_memory(earlier)
        if earlier.optimizer == planned.layout.optimizer and memory.total_bytes <= _budget(request, device.free_bytes):
            planned = replace(
                planned,
                layout=earlier,
                memory=memory,
                accumulation_steps=goal.count_passes(earlier),
                time=goal.predict_time(earlier) if goal.card else None,
            )
    tell(f"training on {device.label}: {planned.describe()}")
    return Job(
        base=request.base,
        settings=request.settings,
        device=device,
        plan=planned,
        max_row_tokens=found.longest_row_tokens,
        scratch=scratch,
        vram_limit_bytes=request.vram_limit_bytes,
    )


def _plan(found: Preflight, device: Device, request: TrainRequest, there_bytes: int) -> tuple[Goal, TrainingPlan]:
    kind: DeviceKind = "gpu" if device.is_gpu else "cpu"
    card, lengths = match_card(device.label), RowLengths.of(found.lengths)
    goal = Goal(found.architecture, request.settings, lengths, kind, card)
    budget = _budget(request, there_bytes)
    return goal, plan_training(found.architecture, request.settings, lengths, budget, kind, card)


def _budget(request: TrainRequest, there_bytes: int) -> int:
    return min(there_bytes, request.vram_limit_bytes or there_bytes)
