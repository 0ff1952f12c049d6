"""The arithmetic of a merge, a few rows at a time: bit for bit what PEFT's merge_and_unload computes in float32.

PEFT: W += (B A) * scaling, with DoRA (magnitude / ||W + B A scaling||) * (W + B A scaling)
(peft/tuners/lora/layer.py, variants.py, dora.py). A matrix product of some of the rows has the bits of the whole one's
rows as long as there are not just a few of them, for which BLAS goes another way: measured with torch 2.13's MKL up to
14336 x 4096 and rank 256, fewer than 7 rows or 16 columns differ.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from ft_pipeline.merging.adapter import Adapter, Update
from ft_pipeline.merging.nf4 import RoundedTensor
from ft_pipeline.merging.shards import FLOAT_TYPES, Shards, element_count

# 4 MiB in float32: what a core's cache holds, three times as fast as 32 MiB.
CHUNK_VALUES = 1 << 20
_LEAST_ROWS = 64
# Columns of a matrix whose norms are computed at once; below that it is the whole matrix.
_BLOCK_VALUES = 1 << 24


class Space(threading.local):
    """Buffers that a thread uses again and again."""

    def __init__(self) -> None:
        self._buffers: dict[str, Any] = {}

    def take(self, use: str, count: int, dtype: str) -> Any:
        """A flat tensor of some values; the next one for the same use has the same memory."""
        import torch

        kind = getattr(torch, dtype)
        buffer = self._buffers.get(use)
        if buffer is None or buffer.numel() < count * kind.itemsize:
            self._buffers[use] = buffer = torch.empty(count * kind.itemsize, dtype=torch.uint8)
        return buffer[: count * kind.itemsize].view(kind)


def view_bytes(tensor: Any) -> memoryview:
    """The memory of a flat tensor, to read files into and to write from."""
    import torch

    return memoryview(tensor.view(torch.uint8).numpy())


class TensorValues:
    """One tensor of the merged model, and the base's that it is made of.

    Attributes:
        rows: Number of rows; of a tensor that the adapter leaves alone, number of values.
        row_values: Values of a row.
        update: How the adapter changes it.
        difference: Square of the norm of what was added, over all rows that were read merged.
        size: Square of the base's norm over these.
    """

    def __init__(
        self, base: Shards, name: str, adapter: Adapter | None, space: Space, rounded: RoundedTensor | None = None
    ) -> None:
        self.update: Update | None = adapter.updates.get(name) if adapter else None
        shape = base.shapes[name]
        self.row_values = element_count(shape[1:]) if self.update else 1
        self.rows = element_count(shape) // max(1, self.row_values)
        self._base, self._adapter, self._name, self._space = base, adapter, name, space
        self._rounded = rounded
        self.difference = self.size = 0.0

    def split(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Cut rows into chunks that are worked on at once."""
        return split_rows(start, stop, self.row_values, CHUNK_VALUES)

    def read_base(self, start: int, stop: int, use: str = "base") -> Any:
        """Some rows of the base as the adapter was trained on it, flat, in float32; in a buffer of that name."""
        count = (stop - start) * self.row_values
        first = start * self.row_values
        if self._rounded is not None:
            return self._rounded.read(first, first + count).float()
        place = self._base.places[self._name]
        dtype = FLOAT_TYPES[place.kind]
        stored = self._space.take(use if dtype == "float32" else "stored", count, dtype)
        self._base.read_bytes(self._name, first * stored.element_size(), view_bytes(stored))
        if dtype == "float32":
            return stored
        # By way of float32: torch converts bfloat16 to float16 value by value, at a third of the speed.
        return self._space.take(use, count, "float32").copy_(stored)

    @property
    def is_copied(self) -> bool:
        """Whether the merged values are some tensor's as it is stored: of the base, or one that takes its place."""
        return self.update is None or not (self.update.low_rank or self.update.added)

    def read_merged(self, start: int, stop: int) -> Any:
        """The same rows merged, flat, in float32; how far they are from the base is added up."""
        update = self.update
        if update is None:
            return self.read_base(start, stop)
        if update.low_rank and not (update.whole or update.magnitude):
            weight = self.read_base(start, stop)
            self.size += float(weight.dot(weight))
            product = self._multiply(start, stop)
            self.difference += float(product.dot(product))
            return self._add_product(weight, product, stop - start).view(-1)
        merged = self._merge_otherwise(update, start, stop)
        before = self.read_base(start, stop, use="product")
        self.size += float(before.dot(before))
        self.difference += float(before.sub_(merged).dot(before))
        return merged

    def _merge_otherwise(self, update: Update, start: int, stop: int) -> Any:
        weight = self._read_whole(start, stop) if update.whole else self.read_base(start, stop)
        if update.added is not None:
            return weight.add_(self._read(update.added)[start:stop].mul_(update.scaling))
        if not update.low_rank:
            return weight
        weight = self._add_product(weight, self._multiply(start, stop), stop - start)
        if update.magnitude is not None:
            weight.mul_(self._find_dora_factor(weight, start, stop))
        return weight.view(-1)

    def _read_whole(self, start: int, stop: int) -> Any:
        stored = self._slice(self._require_update().whole)[start:stop].reshape(-1)
        return self._space.take("whole", stored.numel(), "float32").copy_(stored)

    def _multiply(self, start: int, stop: int) -> Any:
        """Some rows of B A scaling, flat; of a layer that is stored transposed, as many columns."""
        import torch

        update = self._require_update()
        a, b = self._factors
        product = self._space.take("product", (stop - start) * self.row_values, "float32")
        if update.transposed:
            torch.mm(b, a[:, start:stop], out=product.view(self.row_values, stop - start))
        else:
            torch.mm(b[start:stop], a, out=product.view(stop - start, self.row_values))
        return product.mul_(update.scaling)

    def _add_product(self, weight: Any, product: Any, rows: int) -> Any:
        weight = weight.view(rows, self.row_values)
        if self._require_update().transposed:
            return weight.add_(product.view(self.row_values, rows).T)
        return weight.add_(product.view(rows, self.row_values))

    def _find_dora_factor(self, weight: Any, start: int, stop: int) -> Any:
        import torch

        update = self._require_update()
        if update.transposed:
            return self._column_factor.view(1, -1)
        magnitude = self._read(update.magnitude)[start:stop]
        return (magnitude / torch.linalg.norm(weight, dim=1)).view(-1, 1)

    @cached_property
    def _column_factor(self) -> Any:
        """DoRA's factor of each column, which needs all rows: of a large embedding, block by block of columns."""
        import torch

        update = self._require_update()
        a, b = self._factors
        width = max(_LEAST_ROWS, _BLOCK_VALUES // self.rows // _LEAST_ROWS * _LEAST_ROWS)
        norms = []
        for start, stop in split_rows(0, self.row_values, 1, width):
            if update.whole:
                weight = self._slice(update.whole)[:, start:stop].float()
            else:
                weight = self._base.read_columns(self._name, start, stop).float()
            delta = (b[start:stop] @ a).T * update.scaling
            norms.append(torch.linalg.norm(weight.T + delta.T, dim=1))
        return self._read(update.magnitude) / torch.cat(norms)

    @cached_property
    def _factors(self) -> tuple[Any, Any]:
        update = self._require_update()
        return self._read(update.a), self._read(update.b)

    def _require_update(self) -> Update:
        if self.update is None:
            raise ValueError(f"{self._name} has no update")
        return self.update

    def _read(self, key: str | None) -> Any:
        return self._adapter.read(str(key)) if self._adapter else None

    def _slice(self, key: str | None) -> Any:
        return self._adapter.slice(str(key)) if self._adapter else None


def split_rows(start: int, stop: int, row_values: int, chunk_values: int) -> Iterator[tuple[int, int]]:
    """Cut rows into chunks of some values each, in multiples of 64 rows; a smaller rest goes with the last one."""
    step = max(_LEAST_ROWS, chunk_values // max(1, row_values) // _LEAST_ROWS * _LEAST_ROWS)
    while stop - start >= step + _LEAST_ROWS:
        yield start, start + step
        start += step
    if stop > start:
        yield start, stop
