"""How a training goal is reached on this device: the fastest layout whose predicted memory fits.

The recipe says what is learned and how many tokens are behind one optimizer step; this decides how those tokens go
through the model: how many at once, packed or padded, which layers are computed twice, with which optimizer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from ft_pipeline.errors import MemoryBudgetError
from ft_pipeline.finetuning.architecture import Architecture
from ft_pipeline.finetuning.cards import Card
from ft_pipeline.finetuning.layouts import Goal, list_layouts
from ft_pipeline.finetuning.memory import DeviceKind, Layout, MemoryPrediction
from ft_pipeline.finetuning.remedies import list_remedies
from ft_pipeline.finetuning.row_lengths import RowLengths
from ft_pipeline.finetuning.throughput import TimePrediction
from ft_pipeline.recipe import TrainingSection

__all__ = ["RowLengths", "Shortage", "TrainingPlan", "find_plan", "plan_training"]

_GIB = 2**30
# Among layouts this near to the fastest one the simplest is taken.
_NEAR_SHARE = 0.01
# Of the budget, left free where anything fits so: most that measured trainings took beyond their prediction
# (benchmarks/results/vram.md). Else what takes least is planned.
_SPARE_SHARE = 0.04


@dataclass(frozen=True)
class TrainingPlan:
    """What was decided, and what it should cost.

    Attributes:
        layers: Decoder layers of the model.
        accumulation_steps: Micro-batches of a typical optimizer step.
        time: None where nothing is known of the device's speed.
        notes: Sentences for people.
    """

    layout: Layout
    layers: int
    accumulation_steps: int
    memory: MemoryPrediction
    time: TimePrediction | None
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line for logs."""
        layout = self.layout
        rows = "packed" if layout.packing else "padded"
        words = [
            f"{self.accumulation_steps} x {layout.micro_batch_rows} {rows} rows of {layout.row_tokens} tokens",
            f"{layout.checkpointed_layers} of {self.layers} layers computed twice",
            layout.optimizer,
        ]
        if layout.offload_embeddings:
            words.append("input embeddings in the host's memory")
        words.append(f"predicted {self.memory.describe()}")
        if self.time:
            words.append(f"{self.time.tokens_per_second:,.0f} tokens/s")
        return ", ".join(words)

    def as_metadata(self) -> dict[str, Any]:
        """Scalars: the layout, the predicted bytes by part, the predicted speed."""
        figures: dict[str, Any] = asdict(self.layout) | {"accumulation_steps": self.accumulation_steps}
        figures |= {f"predicted_{name}": value for name, value in asdict(self.memory).items()}
        figures["predicted_reserved_bytes"] = self.memory.reserved_bytes
        figures["predicted_total_bytes"] = self.memory.total_bytes
        if self.time:
            figures |= {f"predicted_{name}": value for name, value in asdict(self.time).items()}
        return figures


@dataclass(frozen=True)
class Shortage:
    """Nothing fits.

    Attributes:
        least: What the smallest layout needs.
        remedies: Changes of the recipe, each of which is enough alone.
    """

    least: MemoryPrediction
    budget_bytes: int
    remedies: tuple[str, ...]
    card: Card | None

    @property
    def missing_bytes(self) -> int:
        """By how much the smallest layout does not fit."""
        return self.least.total_bytes - self.budget_bytes

    def describe(self) -> str:
        """What is needed, what there is, and what would fit."""
        where, source = "this device", "free or allowed by gpu.vram_limit_gib"
        if self.card:
            where, source = self.card.label, "for a process" if self.card.is_runnable else "for a process on each"
        would = f"What would fit: {'; '.join(self.remedies)}." if self.remedies else "Free it, or take a smaller base."
        return (
            f"training must fit the device: its smallest layout needs about {self.least.describe()}, {where} has "
            f"{self.budget_bytes / _GIB:.2f} GiB {source}: {self.missing_bytes / _GIB:.2f} GiB short. {would}"
        )


def plan_training(
    architecture: Architecture,
    training: TrainingSection,
    lengths: RowLengths,
    budget_bytes: int,
    device: DeviceKind,
    card: Card | None = None,
) -> TrainingPlan:
    """The fastest layout that fits; of nearly equal ones the simplest.

    Args:
        architecture: The base's.
        training: The recipe's goal.
        lengths: Of the training rows.
        budget_bytes: What is free on the device, or allowed; the CUDA context comes out of it too.
        device: `gpu` or `cpu`.
        card: Whose speed is predicted; None: no times are.

    Raises:
        MemoryBudgetError: nothing fits; the message says by how much, and what would.
        TrainingError: the recipe names modules that the model lacks, or a rank above its hidden size.
    """
    found = find_plan(Goal(architecture, training, lengths, device, card), budget_bytes)
    if isinstance(found, Shortage):
        # What is free or allowed here, whatever card it is.
        raise MemoryBudgetError(replace(found, card=None).describe())
    return found


def find_plan(goal: Goal, budget_bytes: int) -> TrainingPlan | Shortage:
    """As `plan_training`, with what is missing as a value.

    Raises:
        TrainingError: the recipe names modules that the model lacks, or a rank above its hidden size.
    """
    predicted = {layout: goal.predict_memory(layout) for layout in list_layouts(goal)}
    layout = _choose(goal, predicted, budget_bytes)
    if layout is None:
        least = min(predicted.values(), key=lambda memory: memory.total_bytes)
        return Shortage(least, budget_bytes, list_remedies(goal, budget_bytes), goal.card)
    return TrainingPlan(
        layout=layout,
        layers=goal.architecture.layers,
        accumulation_steps=goal.count_passes(layout),
        memory=predicted[layout],
        time=goal.predict_time(layout) if goal.card else None,
        notes=_note(goal, layout),
    )


def _choose(goal: Goal, predicted: dict[Layout, MemoryPrediction], budget_bytes: int) -> Layout | None:
    needs = {layout: memory.total_bytes for layout, memory in predicted.items() if memory.total_bytes <= budget_bytes}
    # A paged optimizer waits for the host in a way that is not predicted: only where nothing else fits.
    needs = {layout: size for layout, size in needs.items() if not layout.optimizer.startswith("paged")} or needs
    if not needs:
        return None
    spare = [layout for layout, size in needs.items() if size <= budget_bytes * (1 - _SPARE_SHARE)]
    if not spare:
        return min(needs, key=lambda layout: needs[layout])
    rates = {layout: goal.predict_time(layout).tokens_per_second for layout in spare}
    near = max(rates.values()) * (1 - _NEAR_SHARE)
    candidates = [layout for layout, rate in rates.items() if rate >= near]
    return min(candidates, key=lambda layout: (layout.offload_embeddings, needs[layout]))


def _note(goal: Goal, layout: Layout) -> tuple[str, ...]:
    notes = []
    if goal.card and not goal.card.is_runnable:
        notes.append("not runnable yet: training runs on one card")
    context = goal.architecture.context_tokens
    if context and goal.lengths.longest > context:
        notes.append(f"rows of {goal.lengths.longest} tokens are longer than the base's context of {context}")
    if layout.optimizer.startswith("paged"):
        notes.append("the optimizer's state is paged from the host's memory, as nothing else fits")
    return tuple(notes)
