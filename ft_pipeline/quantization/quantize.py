"""A 16-bit GGUF becomes a smaller one, by llama.cpp's own quantizer in the installed library."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ft_pipeline.disk_space import require_space
from ft_pipeline.errors import ConversionError, DiskSpaceError
from ft_pipeline.quantization.plan import TENSOR_LINE, Fallback, Plan, make_plan, run_quantizer
from ft_pipeline.quantization.quantizer_parameters import QuantizerParameters

_WRITE_FAILED = "iostream error"
_NOTHING: Mapping[str, Any] = MappingProxyType({})

Progress = Callable[[int, int, str], None]


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
        target: The file to write. It is there when it is whole, and not when this raises.
        type_name: A key of `TYPES`.
        importance: Importance of each column by tensor name (float32): the mean square of what the layer's inputs have
            in it. A tensor without an entry is quantized without.
        tensor_types: A regular expression on tensor names to a key of `TENSOR_TYPES`; the first that is found counts.
        metadata: Written into the file besides the source's; a text has at most 127 bytes, a whole number 32 bits.
        progress: Called with the number of tensors done, of all, and the name of the last one, in another thread.

    Raises:
        ConversionError: the importance matrix does not fit or is missing, the metadata is too long, or llama.cpp
            reports failure; its last words are in the message.
        DiskSpaceError: the file does not fit, or the disk became full.
    """
    started = time.monotonic()
    plan = make_plan(source, type_name, importance, tensor_types)
    _require_fitting(plan, importance or {})
    require_space(target.parent, plan.size_bytes, f"{target.name} in {type_name}")
    parameters = QuantizerParameters(type_name, importance=importance, tensor_types=plan.overrides, metadata=metadata)
    _write(plan, target, parameters, _tensor_listener(progress))
    seconds = time.monotonic() - started
    return QuantizedFile(type_name, target, target.stat().st_size, seconds, plan.fallbacks, plan.size_bytes)


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
    return make_plan(source, type_name, importance, tensor_types).size_bytes


def _write(plan: Plan, target: Path, parameters: QuantizerParameters, on_line: Callable[[str], None] | None) -> None:
    # After a request to stop, llama.cpp goes on in its thread. A file that it opens only then has no folder any more.
    with tempfile.TemporaryDirectory(prefix=".quantizing-", dir=target.parent, ignore_cleanup_errors=True) as folder:
        draft = Path(folder) / target.name
        try:
            run_quantizer(plan.source, draft, plan.type_name, parameters, on_line)
        except ConversionError as err:
            if _WRITE_FAILED in str(err) and draft.is_file():
                raise DiskSpaceError(_describe_full_disk(draft, target, plan.size_bytes)) from err
            raise
        draft.replace(target)


def _describe_full_disk(draft: Path, target: Path, predicted_bytes: int) -> str:
    return (
        f"{target.name} needs {predicted_bytes:,} bytes in {target.parent}; writing ended at "
        f"{draft.stat().st_size:,} with {shutil.disk_usage(target.parent).free:,} free (a full disk or a limit on "
        "file sizes). Free some, or take another disk."
    )


def _tensor_listener(progress: Progress | None) -> Callable[[str], None] | None:
    if progress is None:
        return None

    def listen(line: str) -> None:
        if found := TENSOR_LINE.match(line):
            progress(int(found["number"]), int(found["total"]), found["name"])

    return listen


def _require_fitting(plan: Plan, importance: Mapping[str, Any]) -> None:
    import numpy as np

    plan.require_entries(importance.keys())
    for tensor in plan.changing:
        values = np.asarray(importance.get(tensor.name, np.ones(tensor.importance_values)))
        if values.size != tensor.importance_values:
            raise ConversionError(
                f"an importance matrix has a value for each column; for {tensor.name} with {tensor.importance_values} "
                f"it has {values.size}. Take the one of the same base."
            )
        if not np.isfinite(values).all():
            raise ConversionError(f"an importance matrix must be finite; {tensor.name} has values that are not.")
    if importance and not any(tensor.name in importance for tensor in plan.tensors):
        raise ConversionError(
            f"an importance matrix goes by the names of the GGUF's tensors; none of {', '.join(list(importance)[:3])}, "
            f"... is in {plan.source.name}. Take the one of the same base."
        )
