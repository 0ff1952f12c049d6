"""A 16-bit GGUF becomes a smaller one, by llama.cpp's own quantizer in the installed library."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ft_pipeline.disk_space import require_space
from ft_pipeline.errors import ConversionError, DiskSpaceError
from ft_pipeline.quantization.llama_library import call_llama
from ft_pipeline.quantization.quantizer_parameters import QuantizerParameters
from ft_pipeline.quantization.types import BLOCKS, tensor_needs_importance

# llama-quant.cpp: "warning: NAME - ncols N not divisible by 256 (required for type X) -> falling back to Y"
_FALLBACK = re.compile(
    r"(?P<tensor>\S+)\s+- ncols\s+(?P<columns>\d+) not divisible by\s+\d+ \(required for type\s+(?P<wanted>\w+)\)\s*"
    r"(?:\(WARNING: [^)]*\) )?-> falling back to\s+(?P<used>\w+)"
)
# "[  12/ 291] NAME - [ 4096, 14336, 1, 1], type = f16, size = 112.00 MiB -> 31.50 MiB (q4_K)": the last part only in a
# dry run, and only of a tensor that changes.
_TENSOR = re.compile(
    r"\[\s*(?P<number>\d+)/\s*(?P<total>\d+)\]\s+(?P<name>\S+)\s+- \[(?P<shape>[\d\s,]+)\], type =\s*(?P<source>\w+), "
    r"(?:.*\((?P<target>\w+)\)\s*$)?"
)
_LAST_LINES = 5
_ALIGNMENT = 32
_WRITE_FAILED = "iostream error"
# tensor_requires_imatrix in llama-quant.cpp. It lets embedding and output go without; ggml_quantize_chunk then ends the
# process for those of _ALWAYS_NEED.
_ALWAYS_NEED = {"iq2_xxs", "iq2_xs", "iq1_s"}
_EXEMPT = {"token_embd.weight", "per_layer_token_embd.weight", "output.weight"}
_NOTHING: Mapping[str, Any] = MappingProxyType({})

Progress = Callable[[int, int, str], None]


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
    """A GGUF file and how it was made.

    Attributes:
        predicted_bytes: The size that llama.cpp foresaw; 0 for a file that was not quantized.
    """

    type: str
    path: Path
    size_bytes: int
    wall_seconds: float
    fallbacks: tuple[Fallback, ...] = ()
    predicted_bytes: int = 0


@dataclass(frozen=True)
class _PlannedTensor:
    """A tensor and the type that it will have; shape as in ggml, the length of a row first."""

    name: str
    shape: tuple[int, ...]
    source: str
    target: str

    @property
    def importance_values(self) -> int:
        """How many an entry of the importance matrix has: one a column, for each expert."""
        return self.shape[0] * self.shape[2]

    def size_bytes(self, type_name: str) -> int:
        """What it takes in a file, in a type."""
        block, weights = BLOCKS[type_name], 1
        for length in self.shape:
            weights *= length
        return -(-weights // block.weights * block.bytes // _ALIGNMENT) * _ALIGNMENT


def quantize_gguf(  # noqa: PLR0913 - the last four are rare, and by name
    source: Path,
    target: Path,
    type_name: str,
    *,
    importance: Mapping[str, Any] | None = None,
    tensor_types: Mapping[str, str] = _NOTHING,
    metadata: Mapping[str, str | int | float | bool] = _NOTHING,
    progress: Progress | None = None,
) -> QuantizedFile:
    """Quantize a GGUF on all of the machine's cores.

    Args:
        source: A 16-bit GGUF.
        target: The file to write. It is not left behind when this raises.
        type_name: A key of `TYPES`.
        importance: Importance of each column by tensor name (float32): the mean square of what the layer's inputs have
            in it. A tensor without an entry is quantized without.
        tensor_types: A regular expression on tensor names to a key of `TENSOR_TYPES`; the first that fits counts.
        metadata: Written into the file besides the source's; a text has at most 127 bytes, a whole number 32 bits.
        progress: Called with the number of tensors done, of all, and the name of the last one, in another thread.

    Raises:
        ConversionError: the importance matrix does not fit or is missing, the metadata is too long, or llama.cpp
            reports failure; its last words are in the message.
        DiskSpaceError: the file does not fit, or the disk became full.
    """
    started = time.monotonic()
    plan, header_bytes = _plan(source, type_name, importance, tensor_types)
    _require_importance(plan, source, type_name, importance or {})
    predicted = _total_bytes(plan, header_bytes)
    require_space(target.parent, predicted, f"{target.name} in {type_name}")
    parameters = QuantizerParameters(type_name, importance=importance, tensor_types=tensor_types, metadata=metadata)
    try:
        log = _run(source, target, type_name, parameters, _tensor_listener(progress))
    except BaseException as err:
        is_full = target.is_file() and _WRITE_FAILED in str(err)
        free = shutil.disk_usage(target.parent).free if is_full else 0
        written = target.stat().st_size if is_full else 0
        target.unlink(missing_ok=True)
        if is_full:
            raise DiskSpaceError(
                f"{target.name} needs {predicted:,} bytes in {target.parent}; writing ended at {written:,} with "
                f"{free:,} free (a full disk or a limit on file sizes). Free some, or take another disk."
            ) from err
        raise
    return QuantizedFile(
        type_name, target, target.stat().st_size, time.monotonic() - started, _find_fallbacks(log), predicted
    )


def predict_size(
    source: Path,
    type_name: str,
    importance: Mapping[str, Any] | None = None,
    tensor_types: Mapping[str, str] = _NOTHING,
) -> int:
    """Bytes that a file will have, by llama.cpp's own choice of types: nothing is quantized, and no weight is read.

    Args:
        source: A 16-bit GGUF.
        type_name: A key of `TYPES`.
        importance: As for `quantize_gguf`; with one, some types take other types for some tensors.
        tensor_types: As for `quantize_gguf`.

    Raises:
        ConversionError: llama.cpp does not take the file.
    """
    return _total_bytes(*_plan(source, type_name, importance, tensor_types))


def _plan(
    source: Path, type_name: str, importance: Mapping[str, Any] | None, tensor_types: Mapping[str, str]
) -> tuple[list[_PlannedTensor], int]:
    """Each tensor with its type, and the bytes of everything else in the file."""
    import numpy as np

    # Which types a file has depends on whether there is a matrix, not on its values.
    some = {"any": np.ones(1, np.float32)} if importance else None
    parameters = QuantizerParameters(type_name, importance=some, tensor_types=tensor_types, metadata={}, dry_run=True)
    log = _run(source, source, type_name, parameters, None)
    plan = []
    for found in filter(None, map(_TENSOR.match, log)):
        shape = tuple(int(length) for length in found["shape"].split(","))
        was = found["source"].lower()
        plan.append(_PlannedTensor(found["name"], shape, was, (found["target"] or was).lower()))
    return plan, source.stat().st_size - sum(tensor.size_bytes(tensor.source) for tensor in plan)


def _total_bytes(plan: list[_PlannedTensor], header_bytes: int) -> int:
    return header_bytes + sum(tensor.size_bytes(tensor.target) for tensor in plan)


def _run(
    source: Path,
    target: Path,
    type_name: str,
    parameters: QuantizerParameters,
    on_line: Callable[[str], None] | None,
) -> list[str]:
    import llama_cpp

    status, log = call_llama(
        lambda: llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), parameters.pointer), on_line
    )
    if status != 0:
        words = " | ".join(log[-_LAST_LINES:])
        raise ConversionError(f"llama.cpp could not quantize {source} to {type_name} (status {status}): {words}")
    return log


def _tensor_listener(progress: Progress | None) -> Callable[[str], None] | None:
    if progress is None:
        return None

    def listen(line: str) -> None:
        if found := _TENSOR.match(line):
            progress(int(found["number"]), int(found["total"]), found["name"])

    return listen


def _require_importance(
    plan: list[_PlannedTensor], source: Path, type_name: str, importance: Mapping[str, Any]
) -> None:
    import numpy as np

    changing = [tensor for tensor in plan if tensor.target != tensor.source]
    missing = [tensor for tensor in changing if _needs_entry(tensor, type_name) and tensor.name not in importance]
    if missing:
        shown = f"{missing[0].name} as {missing[0].target}"
        raise ConversionError(
            f"{type_name} needs an importance matrix; {len(missing)} of {len(changing)} tensors of {source.name} have "
            f"none ({shown}, ...). Train with training.importance_tokens above 0 and quantization.imatrix auto, or "
            "choose a type that needs none (docs/quantization-types.md)."
        )
    for tensor in changing:
        values = np.asarray(importance.get(tensor.name, np.ones(tensor.importance_values)))
        if values.size != tensor.importance_values:
            raise ConversionError(
                f"an importance matrix has a value for each column; for {tensor.name} with {tensor.importance_values} "
                f"it has {values.size}. Take the one of the same base."
            )
        if not np.isfinite(values).all():
            raise ConversionError(f"an importance matrix must be finite; {tensor.name} has values that are not.")
    if importance and not any(tensor.name in importance for tensor in plan):
        raise ConversionError(
            f"an importance matrix goes by the names of the GGUF's tensors; none of {', '.join(list(importance)[:3])}, "
            f"... is in {source.name}. Take the one of the same base."
        )


def _needs_entry(tensor: _PlannedTensor, type_name: str) -> bool:
    if tensor.name in _EXEMPT:
        return tensor.target in _ALWAYS_NEED
    return tensor_needs_importance(tensor.target) or (type_name == "Q2_K_S" and tensor.target == "q2_k")


def _find_fallbacks(log: list[str]) -> tuple[Fallback, ...]:
    return tuple(
        Fallback(found["tensor"], int(found["columns"]), found["wanted"], found["used"])
        for found in _FALLBACK.finditer("\n".join(log))
    )
