"""NEFTune: uniform noise on the input embeddings while the model trains. Source: Jain et al. 2023, arXiv:2310.05914.

The trainer's own scales with the length of the micro-batch and draws for all of it at once, so it would be other noise
for rows that are packed, or that go through the model in other numbers. Here each row has its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ft_pipeline.finetuning.schedule import Lengths, Rows


class EmbeddingNoise:
    """Noise of each row, which follows from seed, step and row alone.

    Args:
        alpha: A row of L tokens of d numbers gets noise between plus and minus alpha / sqrt(L * d).
        seed: Of the draws.
    """

    def __init__(self, alpha: float, seed: int) -> None:
        self._alpha = alpha
        self._seed = seed
        self._rows: list[tuple[int, int]] = []

    def install(self, model: Any) -> None:
        """Let a PEFT model's input embeddings be noisy where `on_rows` says so, and nowhere else."""
        model.get_base_model().get_input_embeddings().register_forward_hook(self._add)

    @contextmanager
    def on_rows(self, step: int, rows: Rows, lengths: Lengths) -> Iterator[None]:
        """The model is called with one micro-batch of step `step`: these rows in this order, packed or padded."""
        self._rows = [(_mix(self._seed, step, row), int(lengths[row])) for row in rows]
        try:
            yield
        finally:
            self._rows = []

    def _add(self, _module: Any, _inputs: Any, output: Any) -> Any:
        """A forward hook. output: [rows, longest, d], or [1, tokens, d] with the rows end to end."""
        import torch

        if not self._rows:
            return output
        noise = torch.zeros_like(output)
        tokens = noise.view(-1, output.shape[-1])
        generator = torch.Generator(output.device)
        start = 0
        for seed, length in self._rows:
            most = self._alpha / math.sqrt(length * output.shape[-1])
            tokens[start : start + length].uniform_(-most, most, generator=generator.manual_seed(seed))
            start += length if output.shape[0] == 1 else output.shape[1]
        return output + noise


def _mix(seed: int, step: int, row: int) -> int:
    return int(np.random.SeedSequence((seed, step, row)).generate_state(1, np.uint64)[0])
