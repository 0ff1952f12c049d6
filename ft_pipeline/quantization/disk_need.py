"""What an export takes of the disk and of the machine's memory, from sizes alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from ft_pipeline.finetuning.architecture import Architecture

_MIB = 2**20
# Of anonymous memory. The converter's was measured with models whose largest tensor was of 1 and of 134 million
# weights: it holds one in float32 and as it is written. Merge and quantizer go in slabs of a fixed size.
_CONVERTER_MIB, _CONVERTER_BYTES_PER_WEIGHT = 300, 6
_FIXED_MIB = {"merge": 800, "quantize": 450, "token parity": 800}
# What is there only while something else is made.
_SERVES = {"f16_gguf": {"gguf_model"}, "base_f16_gguf": {"base_gguf"}, "splitting": {"gguf_model", "base_gguf"}}


def count_export_bytes(
    unquantized_bytes: int, quantized_bytes: Iterable[int], *, split_gib: float | None = None
) -> dict[str, int]:
    """Bytes of all that an export has on the disk at once, by the names of its artifacts in `Lineage`.

    Args:
        unquantized_bytes: Of a 16-bit GGUF; the merged model has as many.
        quantized_bytes: Of each type's file.
        split_gib: A larger file lies there twice while it is split.
    """
    quantized = list(quantized_bytes)
    return {
        "merged_model": unquantized_bytes,
        "f16_gguf": unquantized_bytes,
        "gguf_model": sum(quantized),
        "base_f16_gguf": unquantized_bytes,
        "base_gguf": sum(quantized),
        "splitting": max((size for size in quantized if split_gib and size > split_gib * 2**30), default=0),
    }


def count_missing_bytes(needed: Mapping[str, int], there: AbstractSet[str]) -> int:
    """Bytes that are still to be written.

    Args:
        needed: Of `count_export_bytes`.
        there: Names of what is made already. What only served to make it is not made again.
    """
    return sum(size for name, size in needed.items() if name not in there and not _SERVES.get(name, {name}) <= there)


def count_memory_bytes(architecture: Architecture) -> dict[str, int]:
    """Most bytes of memory, the file cache left out, that each step of an export takes.

    None hangs on the size of the whole model.
    """
    largest = max(math.prod(shape) for _, shape in architecture.list_tensors())
    converter = _CONVERTER_MIB * _MIB + _CONVERTER_BYTES_PER_WEIGHT * largest
    return {"convert": converter} | {step: size * _MIB for step, size in _FIXED_MIB.items()}
