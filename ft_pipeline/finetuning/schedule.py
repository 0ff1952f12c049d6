"""Which rows are behind each optimizer step, and how they go through the model.

A step is a fixed set of rows: it follows from the lengths, the recipe's tokens per step and the seed. How many of them
go through the model at once is the plan's affair and changes the result by rounding only, because every micro-batch's
loss is divided by the labelled tokens of the whole step.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ft_pipeline.errors import TrainingError

Rows = tuple[int, ...]
Lengths = Sequence[int] | npt.NDArray[np.int64]


@dataclass(frozen=True)
class Slicing:
    """How the rows of a step are cut into micro-batches.

    Attributes:
        tokens: What goes through the model at once, padding counted; a longer row goes alone.
        is_packed: Rows lie end to end; else each is padded to the longest of its micro-batch.
    """

    tokens: int
    is_packed: bool


def make_steps(lengths: Sequence[int], batch_tokens: int, epochs: float, seed: int) -> list[Rows]:
    """Row indices of each optimizer step of the whole training.

    Every epoch takes the rows in another order and cuts them into steps of nearly equal tokens; the last one may be a
    part.

    Args:
        lengths: Tokens of each row.
        batch_tokens: Tokens behind one step.
        epochs: Passes over the rows.
        seed: Of the orders.

    Raises:
        TrainingError: all of it is less than one step.
    """
    counts = np.asarray(lengths, dtype=np.int64)
    total = int(counts.sum())
    if total * epochs < batch_tokens:
        raise TrainingError(
            f"the training rows must fill one optimizer step (training.effective_batch_tokens = {batch_tokens}), got "
            f"{len(counts)} rows of {total} tokens, {epochs:g} times. Add rows, or lower "
            f"training.effective_batch_tokens to at most {int(total * epochs)}."
        )
    steps: list[Rows] = []
    for epoch in range(math.ceil(epochs)):
        order = np.random.default_rng([seed, epoch]).permutation(len(counts))
        share = min(1.0, epochs - epoch)
        ends = np.cumsum(counts[order])
        order = order[ends - counts[order] < total * share]
        steps += _cut(order, counts[order], batch_tokens)
    return steps


def _cut(order: np.ndarray, counts: np.ndarray, batch_tokens: int) -> list[Rows]:
    total = int(counts.sum())
    steps = max(1, round(total / batch_tokens))
    middles = np.cumsum(counts) - counts / 2
    step_of = np.minimum((middles * steps / total).astype(np.int64), steps - 1)
    bounds = np.flatnonzero(np.diff(step_of)) + 1
    return [tuple(part.tolist()) for part in np.split(order, bounds)]


def slice_step(rows: Rows, lengths: Lengths, slicing: Slicing) -> list[Rows]:
    """Cut the rows of a step into micro-batches of at most `slicing.tokens`."""
    by_length = sorted(rows, key=lambda row: (-lengths[row], row))
    return _pack(by_length, lengths, slicing.tokens) if slicing.is_packed else _pad(by_length, lengths, slicing.tokens)


def _pack(by_length: list[int], lengths: Lengths, most: int) -> list[Rows]:
    """Micro-batches of nearly equal tokens: each row goes to the emptiest one (longest processing time first)."""
    total = sum(lengths[row] for row in by_length)
    count = max(1, math.ceil(total / most))
    while True:
        bins: list[tuple[int, int, list[int]]] = [(0, index, []) for index in range(min(count, len(by_length)))]
        for row in by_length:
            filled, index, members = bins[0]
            members.append(row)
            heapq.heapreplace(bins, (filled + lengths[row], index, members))
        if count >= len(by_length) or max(filled for filled, _, _ in bins) <= max(most, lengths[by_length[0]]):
            return [tuple(members) for _, _, members in sorted(bins, key=lambda item: item[1])]
        count += 1


def _pad(by_length: list[int], lengths: Lengths, most: int) -> list[Rows]:
    """Rows of nearly one length together."""
    batches: list[Rows] = []
    start = 0
    while start < len(by_length):
        rows = max(1, most // lengths[by_length[start]])
        batches.append(tuple(by_length[start : start + rows]))
        start += rows
    return batches
