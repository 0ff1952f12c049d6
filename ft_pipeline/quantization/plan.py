"""What llama.cpp's quantizer would make of a GGUF, tensor by tensor, before anything is written."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_pipeline.errors import ConversionError
from ft_pipeline.quantization.llama_library import call_llama
from ft_pipeline.quantization.quantizer_parameters import QuantizerParameters
from ft_pipeline.quantization.types import BLOCKS, applies_tensor_types, tensor_needs_importance

# "[  12/ 291] NAME - [ 4096, 14336, 1, 1], type = f16, size = 112.00 MiB -> 31.50 MiB (q4_K)": the last part only in a
# dry run, and only of a tensor that changes.
TENSOR_LINE = re.compile(
    r"\[\s*(?P<number>\d+)/\s*(?P<total>\d+)\]\s+(?P<name>\S+)\s+- \[(?P<shape>[\d\s,]+)\], type =\s*(?P<source>\w+), "
    r"(?:.*\((?P<target>\w+)\)\s*$)?"
)
# llama-quant.cpp: "warning: NAME - ncols N not divisible by 256 (required for type X) -> falling back to Y"
_FALLBACK = re.compile(
    r"(?P<tensor>\S+)\s+- ncols\s+(?P<columns>\d+) not divisible by\s+\d+ \(required for type\s+(?P<wanted>\w+)\)\s*"
    r"(?:\(WARNING: [^)]*\) )?-> falling back to\s+(?P<used>\w+)"
)
_LAST_LINES = 5
_ALIGNMENT = 32
# tensor_requires_imatrix in llama-quant.cpp. It lets embedding and output go without; ggml_quantize_chunk then ends the
# process for those of _ALWAYS_NEED.
_ALWAYS_NEED = {"iq2_xxs", "iq2_xs", "iq1_s"}
_EMBEDDINGS = {"token_embd.weight", "per_layer_token_embd.weight"}
_EXEMPT = {*_EMBEDDINGS, "output.weight"}
_SHOWN = 3


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor and the type that it will have; shape as in ggml, the length of a row first."""

    name: str
    shape: tuple[int, ...]
    source: str
    target: str

    @property
    def importance_values(self) -> int:
        """How many an entry of the importance matrix has: one a column, for each expert."""
        return self.shape[0] * self.shape[2]

    @property
    def is_matrix(self) -> bool:
        """Whether it can be quantized."""
        return self.shape[1] > 1

    @property
    def is_embedding(self) -> bool:
        """Whether its rows are looked up: no importance is measured of it."""
        return self.name in _EMBEDDINGS

    def size_bytes(self, type_name: str) -> int:
        """What it takes in a file, in a type."""
        block, weights = BLOCKS[type_name], 1
        for length in self.shape:
            weights *= length
        return -(-weights // block.weights * block.bytes // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True)
class Fallback:
    """A tensor that could not have the type that its file's type asks for.

    Attributes:
        columns: Length of its rows, which is no multiple of that type's block.
        wanted: ggml's name of the type that it should have had.
        used: The one that it has, which mostly takes more bits.
    """

    tensor: str
    columns: int
    wanted: str
    used: str


@dataclass(frozen=True)
class Plan:
    """A file that the quantizer will write.

    Attributes:
        header_bytes: All that is no tensor.
        fallbacks: Of tensors whose rows do not fit their type.
        overrides: Type by the name of a tensor, of those that the recipe gives one.
        hidden: Patterns of the recipe that are found only where an earlier one is.
    """

    source: Path
    type_name: str
    tensors: tuple[PlannedTensor, ...]
    header_bytes: int
    fallbacks: tuple[Fallback, ...]
    overrides: Mapping[str, str]
    hidden: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return self.header_bytes + sum(tensor.size_bytes(tensor.target) for tensor in self.tensors)

    @property
    def changing(self) -> list[PlannedTensor]:
        """The tensors that are quantized."""
        return [tensor for tensor in self.tensors if tensor.target != tensor.source]

    def require_entries(self, names: Collection[str]) -> None:
        """See that the importance matrix has an entry for each tensor that cannot be quantized without.

        Args:
            names: Tensors that it has one for.

        Raises:
            ConversionError: one is missing.
        """
        missing = [each for each in self.changing if _needs_entry(each, self.type_name) and each.name not in names]
        if not missing:
            return
        needy = f"{self.type_name} needs an importance matrix; {len(missing)} of {len(self.changing)} tensors of "
        needy += f"{self.source.name} have none ({missing[0].name} as {missing[0].target}, ...). "
        if missing[0].is_embedding:
            raise ConversionError(
                f"{needy}An embedding is looked up, not multiplied with, so it never has one: let "
                "quantization.tensor_types leave it out."
            )
        raise ConversionError(
            f"{needy}Train with training.importance_tokens above 0 and quantization.imatrix auto, or choose a type "
            "that needs none (docs/quantization-types.md)."
        )

    def require_parts(self, limit_bytes: int) -> None:
        """See that parts of this size can hold each tensor (`split.py`).

        Raises:
            ConversionError: one is too large.
        """
        if self.size_bytes <= limit_bytes:
            return
        room = limit_bytes - self.header_bytes - len(self.tensors) * _ALIGNMENT
        largest = max(self.tensors, key=lambda tensor: tensor.size_bytes(tensor.target))
        if (size := largest.size_bytes(largest.target)) > room:
            raise ConversionError(
                f"a part of a split GGUF must hold its largest tensor and the metadata; in {self.type_name} "
                f"{largest.name} has {size:,} bytes, the limit leaves {max(room, 0):,} of {limit_bytes:,}. Raise "
                "quantization.split_gib."
            )


def make_plan(
    source: Path, type_name: str, importance: Mapping[str, Any] | None, tensor_types: Mapping[str, str]
) -> Plan:
    """Have llama.cpp plan a file: nothing is quantized, and no weight is read.

    Args:
        source: A 16-bit GGUF.
        type_name: A key of `TYPES`.
        importance: Its entries by the names of tensors; with one, some types take other types for some tensors.
        tensor_types: A regular expression on tensor names to a key of `TENSOR_TYPES`; the first that is found counts.

    Raises:
        ConversionError: llama.cpp does not take the file, or a pattern is found in no tensor's name.
    """
    import numpy as np

    # Which types a file has depends on whether there is a matrix, not on its values.
    some = {"any": np.ones(1, np.float32)} if importance else None
    patterns: dict[str, str] = {}
    overrides: dict[str, str] = {}
    log = run_quantizer(source, source, type_name, QuantizerParameters(type_name, importance=some, dry_run=True))
    if tensor_types and applies_tensor_types(type_name):
        patterns = resolve_patterns([tensor.name for tensor in _list_tensors(log) if tensor.is_matrix], tensor_types)
        overrides = {name: tensor_types[pattern] for name, pattern in patterns.items()}
        parameters = QuantizerParameters(type_name, importance=some, tensor_types=overrides, dry_run=True)
        log = run_quantizer(source, source, type_name, parameters)
    tensors = _list_tensors(log)
    return Plan(
        source,
        type_name,
        tensors,
        header_bytes=source.stat().st_size - sum(tensor.size_bytes(tensor.source) for tensor in tensors),
        fallbacks=_list_fallbacks(log),
        overrides=overrides,
        hidden=tuple(pattern for pattern in tensor_types if patterns and pattern not in patterns.values()),
    )


def resolve_patterns(names: Collection[str], tensor_types: Mapping[str, str]) -> dict[str, str]:
    """Of each tensor that a pattern is found in: the pattern, the first of several.

    Raises:
        ConversionError: a pattern is found nowhere; all of them are named.
    """
    lost = [pattern for pattern in tensor_types if not any(re.search(pattern, name) for name in names)]
    if lost:
        parts = sorted({name.split(".")[-2] for name in names})
        near = difflib.get_close_matches(lost[0], parts, _SHOWN, 0.5) or parts
        raise ConversionError(
            f"a pattern of quantization.tensor_types must be found in the name of a matrix of the GGUF; "
            f"{', '.join(map(repr, lost))} {'is' if len(lost) == 1 else 'are'} in none. Names are as "
            f"{next(iter(names), 'blk.0.ffn_down.weight')}; near are {', '.join(near)}."
        )
    found = {}
    for name in names:
        if pattern := next((pattern for pattern in tensor_types if re.search(pattern, name)), None):
            found[name] = pattern
    return found


def run_quantizer(
    source: Path,
    target: Path,
    type_name: str,
    parameters: QuantizerParameters,
    on_line: Callable[[str], None] | None = None,
) -> list[str]:
    """Call `llama_model_quantize`.

    Args:
        on_line: Hears each line that it logs, in another thread.

    Returns:
        What it logged.

    Raises:
        ConversionError: it reports failure; its last words are in the message.
    """
    import llama_cpp

    status, log = call_llama(
        lambda: llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), parameters.pointer), on_line
    )
    if status != 0:
        words = " | ".join(log[-_LAST_LINES:])
        raise ConversionError(f"llama.cpp could not quantize {source} to {type_name} (status {status}): {words}")
    return log


def _list_tensors(log: list[str]) -> tuple[PlannedTensor, ...]:
    tensors = []
    for found in filter(None, map(TENSOR_LINE.match, log)):
        shape = tuple(int(length) for length in found["shape"].split(","))
        was = found["source"].lower()
        tensors.append(PlannedTensor(found["name"], shape, was, (found["target"] or was).lower()))
    return tuple(tensors)


def _list_fallbacks(log: list[str]) -> tuple[Fallback, ...]:
    return tuple(
        Fallback(found["tensor"], int(found["columns"]), found["wanted"], found["used"])
        for found in _FALLBACK.finditer("\n".join(log))
    )


def _needs_entry(tensor: PlannedTensor, type_name: str) -> bool:
    if tensor.name in _EXEMPT:
        return tensor.target in _ALWAYS_NEED
    return tensor_needs_importance(tensor.target) or (type_name == "Q2_K_S" and tensor.target == "q2_k")
