"""Every way in which a training goal's tokens can go through the model, and what each costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from ft_pipeline.finetuning.architecture import Architecture
from ft_pipeline.finetuning.cards import Card, find_card
from ft_pipeline.finetuning.memory import (
    DeviceKind,
    Layout,
    MemoryPrediction,
    can_offload_embeddings,
    predict_memory,
)
from ft_pipeline.finetuning.row_lengths import RowLengths
from ft_pipeline.finetuning.schedule import Slicing
from ft_pipeline.finetuning.throughput import REFERENCE_CPU, TimePrediction, predict_time
from ft_pipeline.recipe import TrainingSection

_CPU_MICRO_BATCH_TOKENS = 4096
# Fewer tokens at once are never faster, so a long list of small micro-batches is thinned.
_ALL_UP_TO = 32
# In sixteenths of the layers.
_CHECKPOINTING_STEPS = 16
# Of a card that no figures are known for, only which layout is faster than which counts.
_REFERENCE_CARD = "rtx4090"


@dataclass(frozen=True)
class Goal:
    """What is planned for, and where."""

    architecture: Architecture
    training: TrainingSection
    lengths: RowLengths
    device: DeviceKind
    card: Card | None = None

    def predict_memory(self, layout: Layout) -> MemoryPrediction:
        """Of one card, if the layers are split over several."""
        part, accumulates = self.architecture, self.count_passes(layout) > 1
        if self.card and not self.card.is_runnable:
            part, layout = split_over(self.architecture, layout, self.card.count)
        return predict_memory(part, self.training, layout, self.device, accumulates=accumulates)

    def predict_time(self, layout: Layout) -> TimePrediction:
        """On the card, or on one to compare by. Cards that share the layers take turns: they are as fast as one."""
        card = self.card or (REFERENCE_CPU if self.device == "cpu" else find_card(_REFERENCE_CARD))
        return predict_time(self.architecture, self.training, layout, self.lengths, card)

    def count_passes(self, layout: Layout) -> int:
        """Micro-batches of a typical optimizer step."""
        slicing = Slicing(layout.micro_batch_tokens, layout.packing)
        return self.lengths.lay(self.training.effective_batch_tokens, slicing).micro_batches


def fits(goal: Goal, budget_bytes: int) -> bool:
    """Whether any layout does."""
    return any(goal.predict_memory(layout).total_bytes <= budget_bytes for layout in list_layouts(goal))


def list_layouts(goal: Goal) -> Iterator[Layout]:
    """Every layout that the recipe allows, whether it fits or not."""
    is_gpu, execution = goal.device == "gpu", goal.training.execution
    is_packed = execution.packing == "always" or (execution.packing == "auto" and is_gpu)
    can_offload = is_gpu and can_offload_embeddings(goal.architecture, goal.training)
    for (rows, row_tokens), layers, offload, optimizer in product(
        _list_micro_batches(goal, is_packed),
        _list_checkpointing(goal, is_gpu),
        (False, True) if can_offload else (False,),
        _list_optimizers(goal, is_gpu),
    ):
        yield Layout(rows, row_tokens, is_packed, layers, offload, optimizer)


def _list_micro_batches(goal: Goal, is_packed: bool) -> list[tuple[int, int]]:
    """Rows, and tokens of a row, of the micro-batches that a step can be cut into."""
    longest, wanted = goal.lengths.longest, goal.training.effective_batch_tokens
    if asked := goal.training.execution.micro_batch_tokens:
        return [_divide(asked, longest, is_packed)]
    # A step is cut between rows, so it holds up to about one row more than the recipe says.
    slack = 0 if goal.lengths.is_uniform else math.ceil(goal.lengths.mean)
    if is_packed and not goal.lengths.is_uniform:
        caps = [math.ceil(wanted / count) + slack for count in _list_passes(math.ceil((wanted + slack) / longest))]
    else:
        rows = math.ceil((wanted + slack) / goal.lengths.mean)
        caps = [math.ceil(rows / count) * longest for count in _list_passes(rows)]
    if goal.device == "cpu":
        caps = [min(cap, _CPU_MICRO_BATCH_TOKENS) for cap in caps]
    return list(dict.fromkeys(_divide(cap, longest, is_packed) for cap in caps))


def _list_passes(most: int) -> list[int]:
    """In how many passes a step can go through the model: every number up to 32, then powers of two."""
    return [count for count in range(1, most + 1) if count <= _ALL_UP_TO or count & (count - 1) == 0 or count == most]


def _divide(tokens: int, longest: int, is_packed: bool) -> tuple[int, int]:
    """`tokens` as rows of at least the longest length; one row at least."""
    rows = max(1, tokens // longest)
    return rows, max(longest, tokens // rows) if is_packed else longest


def _list_checkpointing(goal: Goal, is_gpu: bool) -> list[int]:
    layers, wanted = goal.architecture.layers, goal.training.execution.gradient_checkpointing
    if wanted == "always":
        return [layers]
    if wanted == "never" or not is_gpu:
        return [0]
    if goal.training.backend == "trl":
        return [0, layers]
    return sorted({round(layers * share / _CHECKPOINTING_STEPS) for share in range(_CHECKPOINTING_STEPS + 1)})


def _list_optimizers(goal: Goal, is_gpu: bool) -> tuple[str, ...]:
    if goal.training.optimizer != "auto":
        return (goal.training.optimizer,)
    return ("adamw_8bit", "paged_adamw_8bit") if is_gpu else ("adamw_torch",)


def split_over(architecture: Architecture, layout: Layout, cards: int) -> tuple[Architecture, Layout]:
    """What lies on the fuller of several cards: its share of the layers, and one of the two embeddings."""
    layers = math.ceil(architecture.layers / cards)
    part = replace(architecture, layers=layers, tied_embeddings=True)
    return part, replace(layout, checkpointed_layers=math.ceil(layout.checkpointed_layers / cards))
