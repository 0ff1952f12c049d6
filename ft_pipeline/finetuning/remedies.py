"""What would make a training fit that does not: each change is planned again before it is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ft_pipeline.finetuning.architecture import read_architecture
from ft_pipeline.finetuning.layouts import Goal, fits
from ft_pipeline.finetuning.shapes import SHAPES

_ROW_TOKENS = (16384, 12288, 8192, 6144, 4096, 3072, 2048, 1536, 1024, 768, 512, 384, 256)
_RANKS = (512, 256, 128, 64, 32, 16, 8, 4)


def list_remedies(goal: Goal, budget_bytes: int) -> tuple[str, ...]:
    """Changes of the recipe, each of which is enough alone: of every kind the mildest that is."""
    kinds = (_lower_rank(goal), _shorter_rows(goal), _quantized(goal), _checkpointed(goal), _smaller_base(goal))
    found = (next((words for words, changed in kind if fits(changed, budget_bytes)), None) for kind in kinds)
    return tuple(words for words in found if words)


def _lower_rank(goal: Goal) -> Iterator[tuple[str, Goal]]:
    for rank in _RANKS:
        if rank < goal.training.lora.rank:
            lora = goal.training.lora.model_copy(update={"rank": rank})
            yield f"training.lora.rank {rank}", _with(goal, lora=lora)


def _shorter_rows(goal: Goal) -> Iterator[tuple[str, Goal]]:
    for row_tokens in _ROW_TOKENS:
        if row_tokens < goal.lengths.longest:
            yield f"dataset.max_row_tokens {row_tokens}", replace(goal, lengths=goal.lengths.cut_to(row_tokens))


def _quantized(goal: Goal) -> Iterator[tuple[str, Goal]]:
    if not goal.training.load_in_4bit:
        yield "training.load_in_4bit true", _with(goal, load_in_4bit=True)


def _checkpointed(goal: Goal) -> Iterator[tuple[str, Goal]]:
    execution = goal.training.execution
    if execution.gradient_checkpointing == "never":
        always = execution.model_copy(update={"gradient_checkpointing": "always"})
        yield "training.execution.gradient_checkpointing auto", _with(goal, execution=always)


def _smaller_base(goal: Goal) -> Iterator[tuple[str, Goal]]:
    lora = goal.training.lora.model_copy(update={"target_modules": "all-linear"})
    known = [(name, read_architecture(shape)) for name, shape in SHAPES.items()]
    for name, architecture in sorted(known, key=lambda pair: -pair[1].total_parameters):
        is_long_enough = not architecture.context_tokens or architecture.context_tokens >= goal.lengths.longest
        if is_long_enough and architecture.total_parameters < goal.architecture.total_parameters:
            words = f"a base of {architecture.total_parameters / 1e9:.1f}B parameters such as {name}"
            yield words, replace(_with(goal, lora=lora), architecture=architecture)


def _with(goal: Goal, **changes: Any) -> Goal:
    return replace(goal, training=goal.training.model_copy(update=changes))
