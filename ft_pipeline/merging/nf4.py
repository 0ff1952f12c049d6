"""The base as a 4-bit training saw it: linear layers rounded to NF4 and back, by bitsandbytes itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ft_pipeline.finetuning.architecture import read_architecture
from ft_pipeline.merging.adapter import Adapter
from ft_pipeline.merging.names import find_names
from ft_pipeline.merging.shards import Shards, element_count

# As transformers' BitsAndBytesConfig is set in training: NF4 in blocks of 64 values, their scales in 8 bits.
_BLOCK_VALUES = 64
_SCALE_BLOCK_VALUES = 256
# bitsandbytes needs some ten times its input on the CPU.
_PIECE_VALUES = 1 << 18


def find_quantized(config: Mapping[str, Any], base: Shards, adapter: Adapter) -> set[str]:
    """Tensors that a 4-bit training loads in 4 bits: the linear layers of the decoder, not the output layer.

    What is trained whole stays as it is: bitsandbytes has no gradients for it.

    Raises:
        BaseModelError: the family is not known.
    """
    architecture = read_architecture(config)
    linear = {f".{name}.weight" for name in architecture.linears}
    wanted = [name for name, shape in architecture.list_tensors() if len(shape) > 1 and name.endswith(tuple(linear))]
    found = {name for name in find_names(wanted, base.shapes).values() if name is not None}
    return {name for name in found if not ((update := adapter.updates.get(name)) and update.whole)}


class RoundedTensor:
    """A tensor rounded to NF4, kept in 4 bits, read in pieces.

    Args:
        pieces: Its values in the type that training computed in, flat, in order; each but the last of a multiple of 64.
    """

    def __init__(self, pieces: Iterator[Any], dtype: Any) -> None:
        import torch
        from bitsandbytes.functional import dequantize_blockwise, quantize_4bit, quantize_blockwise

        packed, scales = [], []
        for piece in pieces:
            values, state = quantize_4bit(piece, blocksize=_BLOCK_VALUES, quant_type="nf4", compress_statistics=False)
            packed.append(values.view(-1))
            scales.append(state.absmax)
        self._packed, absmax = torch.cat(packed), torch.cat(scales)
        # What quantize_4bit does with compress_statistics, which needs the scales of all blocks at once.
        offset = absmax.mean()
        rounded, nested = quantize_blockwise(absmax - offset, blocksize=_SCALE_BLOCK_VALUES)
        self._scales = dequantize_blockwise(rounded, nested) + offset
        self._dtype = dtype

    def read(self, start: int, stop: int) -> Any:
        """Some values in the type that training computed in; `start` is a multiple of 64."""
        import torch
        from bitsandbytes.functional import QuantState, dequantize_4bit, get_4bit_type

        parts = []
        for first in range(start, stop, _PIECE_VALUES):
            last = min(stop, first + _PIECE_VALUES)
            scales = self._scales[first // _BLOCK_VALUES : -(-last // _BLOCK_VALUES)]
            state = QuantState(
                absmax=scales.contiguous(),
                shape=torch.Size([last - first]),
                code=get_4bit_type("nf4", device="cpu"),
                blocksize=_BLOCK_VALUES,
                quant_type="nf4",
                dtype=self._dtype,
            )
            packed = self._packed[first // 2 : -(-last // 2)].view(-1, 1)
            parts.append(dequantize_4bit(packed, state).view(-1))
        return torch.cat(parts)


def round_tensor(read: Callable[[int, int], Any], count: int, dtype_name: str) -> RoundedTensor:
    """Round a tensor to NF4.

    Args:
        read: The values from one position to another, flat.
        count: How many there are.
        dtype_name: torch's name of the type that training computed in.
    """
    import torch

    dtype = getattr(torch, dtype_name)
    pieces = (
        read(first, min(count, first + _PIECE_VALUES)).to(dtype).contiguous()
        for first in range(0, count, _PIECE_VALUES)
    )
    return RoundedTensor(pieces, dtype)


@dataclass(frozen=True)
class RoundedShards(Shards):
    """A base of which some tensors are read rounded to NF4 and back.

    Attributes:
        quantized: Their names.
        dtype_name: torch's name of the type that training computed in.
    """

    quantized: set[str] = field(default_factory=set)
    dtype_name: str = "bfloat16"

    @classmethod
    def of(cls, base: Shards, quantized: set[str], dtype_name: str) -> RoundedShards:
        """The same base, rounded."""
        return cls(base.folder, base.shapes, base.places, quantized, dtype_name)

    def read(self, name: str) -> Any:
        """One tensor on the CPU."""
        stored = super().read(name)
        if name not in self.quantized:
            return stored
        flat, count = stored.view(-1), element_count(self.shapes[name])
        return (
            round_tensor(lambda start, stop: flat[start:stop], count, self.dtype_name).read(0, count).view(stored.shape)
        )
