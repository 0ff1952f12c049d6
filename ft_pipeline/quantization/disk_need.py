"""What an export takes of the disk and of the machine's memory, from sizes alone."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ft_pipeline.finetuning.architecture import Architecture

_MIB = 2**20
# Of anonymous memory. The converter's was measured with models whose largest tensor was of 1 and of 134 million
# weights: it holds one in float32 and as it is written. Merge and quantizer go in slabs of a fixed size.
_CONVERTER_MIB, _CONVERTER_BYTES_PER_WEIGHT = 300, 6
_FIXED_MIB = {"merge": 800, "quantize": 450, "token parity": 800}


def export_bytes(unquantized_bytes: int, quantized_bytes: Iterable[int], *, split_gib: float | None = None) -> int:
    """Most bytes that an export has on the disk at once.

    That is the merged model, and of challenger and base a 16-bit GGUF and every type.

    Args:
        unquantized_bytes: Of a 16-bit GGUF; the merged model has as many.
        quantized_bytes: Of each type's file.
        split_gib: A larger file lies there twice while it is split.
    """
    quantized = list(quantized_bytes)
    split = max((size for size in quantized if split_gib and size > split_gib * 2**30), default=0)
    return 3 * unquantized_bytes + 2 * sum(quantized) + split


def count_memory_bytes(architecture: Architecture) -> dict[str, int]:
    """Most bytes of memory, the file cache left out, that each step of an export takes.

    None hangs on the size of the whole model.
    """
    largest = max(math.prod(shape) for _, shape in architecture.list_tensors())
    converter = _CONVERTER_MIB * _MIB + _CONVERTER_BYTES_PER_WEIGHT * largest
    return {"convert": converter} | {step: size * _MIB for step, size in _FIXED_MIB.items()}
