"""What is found out before the device is held, so that a wrong recipe never waits for it; and the plan, once it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ft_pipeline.base_model import read_config
from ft_pipeline.datasets.validated import read_row_lengths
from ft_pipeline.finetuning.architecture import Architecture, find_targets, read_architecture
from ft_pipeline.finetuning.cards import match_card
from ft_pipeline.finetuning.curves import require_trackers
from ft_pipeline.finetuning.device import Device, find_device
from ft_pipeline.finetuning.job import Job, TrainRequest
from ft_pipeline.finetuning.memory import DeviceKind, Layout, predict_memory
from ft_pipeline.finetuning.neighbours import describe_neighbours, list_neighbours
from ft_pipeline.finetuning.planner import RowLengths, plan_training
from ft_pipeline.finetuning.schedule import Rows, make_steps


@dataclass(frozen=True)
class Preflight:
    """What does not hang on who else uses the device.

    Attributes:
        lengths: Tokens of each training row.
        steps: Row indices of each optimizer step.
    """

    device: Device
    architecture: Architecture
    lengths: list[int]
    steps: list[Rows]


def examine(request: TrainRequest) -> Preflight:
    """Check what can be checked without the device.

    Raises:
        ResourceError: the device is not there or not fit.
        BaseModelError: the base is of a family that is not known.
        TrainingError: unknown target modules, a rank above the hidden size, or fewer rows than one step.
        EnvironmentMismatch: a tracker's package is missing.
    """
    settings = request.settings
    device = find_device(request.device)
    require_trackers(settings.execution.trackers)
    architecture = read_architecture(read_config(request.base))
    find_targets(architecture, settings.lora.target_modules, settings.lora.rank)
    lengths = read_row_lengths(request.rows)
    steps = make_steps(lengths, settings.effective_batch_tokens, settings.epochs, settings.seed)
    return Preflight(device, architecture, lengths, steps)


def plan(
    found: Preflight,
    device: Device,
    request: TrainRequest,
    scratch: Path,
    *,
    layout: Layout | None,
    tell: Callable[[str], None],
) -> Job:
    """The plan for what is free on the device now.

    Args:
        found: What was found before.
        device: As it is now.
        request: What is asked for.
        scratch: Folder for what is not kept.
        layout: Of the run that this one goes on from: as long as it fits, nothing is rounded otherwise.
        tell: Called with sentences for the log.

    Raises:
        MemoryBudgetError: it does not fit; the message says by how much and what would.
    """
    for note in device.notes:
        tell(note)
    for neighbour in describe_neighbours(list_neighbours(device.name)):
        tell(neighbour)
    kind: DeviceKind = "gpu" if device.is_gpu else "cpu"
    planned = plan_training(
        found.architecture,
        request.settings,
        RowLengths.of(found.lengths),
        budget_bytes=min(device.free_bytes, request.vram_limit_bytes or device.free_bytes),
        device=kind,
        card=match_card(device.label),
    )
    if layout:
        memory = predict_memory(found.architecture, request.settings, layout, kind)
        planned = replace(planned, layout=layout, memory=memory)
    tell(f"training on {device.label}: {planned.describe()}")
    return Job(
        base=request.base,
        settings=request.settings,
        device=device,
        plan=planned,
        max_row_tokens=max(found.lengths),
        scratch=scratch,
        vram_limit_bytes=request.vram_limit_bytes,
    )
