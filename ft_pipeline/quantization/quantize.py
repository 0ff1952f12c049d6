"""An f16 GGUF becomes a smaller one, by llama.cpp's own quantizer in the installed library."""

from __future__ import annotations

import ctypes
import re
import time
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.errors import ConversionError
from ft_pipeline.quantization.llama_library import call_llama
from ft_pipeline.quantization.types import TYPES

# llama-quant.cpp: "warning: NAME - ncols N not divisible by 256 (required for type X) -> falling back to Y"
_FALLBACK = re.compile(
    r"(?P<tensor>\S+)\s+- ncols\s+(?P<columns>\d+) not divisible by \d+ \(required for type\s+(?P<wanted>\w+)\)\s*"
    r"-> falling back to\s+(?P<used>\w+)"
)
_LAST_LINES = 5


@dataclass(frozen=True)
class Fallback:
    """A tensor that could not have the type that its file's type asks for.

    Attributes:
        columns: Length of its rows; K-quants need a multiple of 256.
        wanted: ggml's name of the type that it should have had.
        used: The one that it has, which takes more bits.
    """

    tensor: str
    columns: int
    wanted: str
    used: str


@dataclass(frozen=True)
class QuantizedFile:
    """A GGUF file and how it was made."""

    type: str
    path: Path
    size_bytes: int
    wall_seconds: float
    fallbacks: tuple[Fallback, ...] = ()


def quantize_gguf(source: Path, target: Path, type_name: str) -> QuantizedFile:
    """Quantize a GGUF on all of the machine's cores.

    Args:
        source: An f16 GGUF.
        target: The file to write.
        type_name: A key of `TYPES`.

    Raises:
        ConversionError: llama.cpp reports failure; its last words are in the message.
    """
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = TYPES[type_name].ftype
    parameters.nthread = 0  # as many as the machine has
    started = time.monotonic()
    status, log = call_llama(
        lambda: llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters))
    )
    if status != 0 or not target.is_file():
        target.unlink(missing_ok=True)
        words = " | ".join(log[-_LAST_LINES:])
        raise ConversionError(f"llama.cpp could not quantize {source} to {type_name} (status {status}): {words}")
    fallbacks = tuple(
        Fallback(found["tensor"], int(found["columns"]), found["wanted"], found["used"])
        for found in _FALLBACK.finditer("\n".join(log))
    )
    return QuantizedFile(type_name, target, target.stat().st_size, time.monotonic() - started, fallbacks)
