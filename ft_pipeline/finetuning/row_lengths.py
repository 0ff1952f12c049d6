"""How long the training rows are, which decides what padding costs and how many go through the model at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ft_pipeline.errors import DatasetError
from ft_pipeline.finetuning.schedule import Slicing, slice_step

# Quantiles that stand for all rows.
_QUANTILES = 1024
_MOST_ROWS = 4096


@dataclass(frozen=True)
class RowLengths:
    """Tokens of the training rows.

    Attributes:
        quantiles: Lengths in rising order, at most 1,024 that stand for all.
    """

    count: int
    total_tokens: int
    longest: int
    quantiles: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int]) -> RowLengths:
        """From the length of every row.

        Raises:
            DatasetError: there is no row.
        """
        if not len(lengths):
            raise DatasetError("there must be training rows, got none. Look at the data report for why they left.")
        ordered = np.sort(np.asarray(lengths, dtype=np.int64))
        most = min(len(ordered), _QUANTILES)
        picked = ordered[((np.arange(most) + 0.5) * len(ordered) / most).astype(np.int64)]
        return cls(len(ordered), int(ordered.sum()), int(ordered[-1]), tuple(picked.tolist()))

    @classmethod
    def assumed(cls, row_tokens: int, count: int = 10_000) -> RowLengths:
        """As if every row were that long."""
        return cls(count, count * row_tokens, row_tokens, (row_tokens,))

    @property
    def mean(self) -> float:
        """Mean tokens of a row."""
        return self.total_tokens / self.count

    @property
    def is_uniform(self) -> bool:
        """Whether all rows are of one length."""
        return self.quantiles[0] == self.longest

    def cut_to(self, row_tokens: int) -> RowLengths:
        """The same rows, none longer than that."""
        if row_tokens >= self.longest:
            return self
        quantiles = tuple(min(tokens, row_tokens) for tokens in self.quantiles)
        total = round(sum(quantiles) / len(quantiles) * self.count)
        return RowLengths(self.count, total, row_tokens, quantiles)

    def lay(self, step_tokens: int, slicing: Slicing) -> StepShape:
        """How a typical optimizer step goes through the model."""
        return _lay(self, step_tokens, slicing)


@dataclass(frozen=True)
class StepShape:
    """A typical optimizer step.

    Attributes:
        micro_batches: Passes through the model.
        real_tokens: Tokens of its rows.
        computed_tokens: With padding.
        attended_tokens: Mean tokens of the row that a token attends within, weighted by tokens; padded ones included.
    """

    micro_batches: int
    real_tokens: int
    computed_tokens: int
    attended_tokens: float


@lru_cache(maxsize=4096)
def _lay(lengths: RowLengths, step_tokens: int, slicing: Slicing) -> StepShape:
    """A step whose rows are spread as all are; a long one is so many times one of 4,096 rows."""
    wanted = max(1, round(step_tokens / lengths.mean))
    times = math.ceil(wanted / _MOST_ROWS)
    count = wanted // times
    rows = [lengths.quantiles[int((index + 0.5) * len(lengths.quantiles) / count)] for index in range(count)]
    parts = slice_step(tuple(range(count)), rows, slicing)
    widths = [rows[row] if slicing.is_packed else max(rows[row] for row in part) for part in parts for row in part]
    computed = sum(widths)
    attended = sum(width * width for width in widths) / computed
    return StepShape(times * len(parts), times * sum(rows), times * computed, attended)
