"""Where the values of a parameter come from when logits are compared, and what is computed with them in blocks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from ft_pipeline.merging.adapter import Adapter, Update
from ft_pipeline.merging.shards import Shards
from ft_pipeline.merging.values import Space

# Values of a weight that a thread makes float32 at a time: 4 MiB.
_BLOCK_VALUES = 1 << 20


@dataclass(frozen=True)
class Source:
    """Where the values of one parameter come from, on one side.

    Attributes:
        shards: The model's files.
        tensor: The parameter's name there.
        ids: The probed ids, of a parameter that has a row for each id of the vocabulary.
        adapter: What is on the base; nothing is on the merged model.
        update: How the adapter changes this parameter.
        wait: Called before the shards are read; the merge may not have written them yet.
    """

    shards: Shards
    tensor: str
    ids: Any = None
    adapter: Adapter | None = None
    update: Update | None = None
    wait: Callable[[], None] | None = None

    def read(self) -> Any:
        """The tensor without low-rank updates, mapped from its file and not copied."""
        if self.update is not None and self.update.whole is not None:
            return self._part(self.update.whole)
        if self.wait is not None:
            self.wait()
        tensor = self.shards.read(self.tensor)
        return tensor if self.ids is None else tensor[self.ids]

    def values(self) -> Any:
        """All values of a vector or of an embedding."""
        values, update = self.read().float(), self.update
        if update is None:
            return values
        if update.added is not None:
            values = values + update.scaling * self._part(update.added)
        if update.a is not None:
            values = values + update.scaling * (self._part(update.b, whole=True) @ self._part(update.a, dim=1)).T
        return values if update.magnitude is None else values * self._stretch(update)

    def multiply(self, rows: Any, pool: Executor, space: Space, *, stored_transposed: bool) -> Any:
        """Rows (n, in) through a linear layer without its bias: (n, out), the update's factors beside the weight."""
        import torch

        weight, update = self.read(), self.update
        weight = weight.T if stored_transposed else weight
        a = b = magnitudes = low = None
        if update is not None and update.a is not None:
            a, b = self._part(update.a, whole=True), self._part(update.b)
            low = update.scaling * (rows @ a.T)
            magnitudes = None if update.magnitude is None else self._part(update.magnitude)
        result = rows.new_empty(len(rows), len(weight))
        step = max(1, _BLOCK_VALUES // weight.shape[1])

        def fill(start: int) -> None:
            part = slice(start, start + step)
            block = space.take("block", weight[part].numel(), "float32").view(weight[part].shape).copy_(weight[part])
            product = rows @ block.T
            if update is not None and b is not None:
                product += low @ b[part].T
                if magnitudes is not None:
                    # peft/tuners/lora/dora.py, DoraLinearLayer: magnitude / ||W + scaling B A||, by output.
                    product *= magnitudes[part] / block.addmm_(b[part], a, alpha=update.scaling).norm(dim=1)
            result[:, part] = product

        # Each thread has to say for itself that no gradients are wanted.
        list(pool.map(torch.inference_mode()(fill), range(0, len(weight), step)))
        return result

    def _part(self, key: str | None, *, dim: int = 0, whole: bool = False) -> Any:
        """A tensor of the adapter's file, of it the probed ids."""
        if self.adapter is None or key is None:
            raise ValueError(f"{self.tensor} has no such update")
        tensor = self.adapter.slice(key)[:]
        return (tensor if self.ids is None or whole else tensor.index_select(dim, self.ids)).float()

    def _stretch(self, update: Update) -> Any:
        """DoRA's factor of an embedding (`DoraEmbeddingLayer`): a norm for each column, over the whole vocabulary."""
        everything = Source(self.shards, self.tensor, None, self.adapter, update)
        weight = everything.read()
        a, b = everything._part(update.a), everything._part(update.b)
        step = max(1, _BLOCK_VALUES // weight.shape[1])
        squares = sum(
            ((block.float() + update.scaling * (b @ columns).T) ** 2).sum(dim=0)
            for block, columns in zip(weight.split(step), a.split(step, dim=1), strict=True)
        )
        return everything._part(update.magnitude) / squares.sqrt()
