"""llama.cpp's file types, and the types that single tensors of a file may have.

Names and numbers of the file types are those of `enum llama_ftype` in llama.cpp's include/llama.h. Their sizes are what
its quantizer computes (`dry_run`) for the shape of Llama-3-8B; tools/quantize/quantize.cpp prints them in GiB.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Need = Literal["none", "gains", "required"]
_NEEDS: tuple[Need, ...] = ("none", "gains", "required")
_UNQUANTIZED = {"f32", "f16", "bf16"}
_FEW_VALUES = "it is for models trained with weights of two or three values, which a merged adapter's weights are not"


@dataclass(frozen=True)
class Block:
    """How ggml stores weights of a type: so many of them in so many bytes."""

    ggml_type: int
    weights: int
    bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Bits that a weight takes in a tensor of this type."""
        return 8 * self.bytes / self.weights


@dataclass(frozen=True)
class QuantizationType:
    """One file type.

    Attributes:
        ftype: Its number in llama.cpp.
        block: ggml's type of most of its tensors, a key of `BLOCKS`. Some of the others have more bits.
        bits_per_weight: Of a Llama-3-8B file, made with an importance matrix if the type takes one.
        imatrix: "required": llama.cpp refuses without an importance matrix; "gains": it chooses other values with one,
            closer where it matters; "none": the file is the same with or without.
        fallback: ggml's type of a tensor whose rows are no multiple of the block; None: there is always a block.
        not_offered: Why it cannot be chosen; None: it can.
    """

    name: str
    ftype: int
    block: str
    bits_per_weight: float
    imatrix: Need
    fallback: str | None
    not_offered: str | None = None


BLOCKS: dict[str, Block] = {
    "f32": Block(0, 1, 4),
    "f16": Block(1, 1, 2),
    "bf16": Block(30, 1, 2),
    "q8_0": Block(8, 32, 34),
    "q6_k": Block(14, 256, 210),
    "q5_k": Block(13, 256, 176),
    "q5_1": Block(7, 32, 24),
    "q5_0": Block(6, 32, 22),
    "q4_k": Block(12, 256, 144),
    "q4_1": Block(3, 32, 20),
    "q4_0": Block(2, 32, 18),
    "q3_k": Block(11, 256, 110),
    "q2_k": Block(10, 256, 84),
    "iq4_nl": Block(20, 32, 18),
    "iq4_xs": Block(23, 256, 136),
    "iq3_s": Block(21, 256, 110),
    "iq3_xxs": Block(18, 256, 98),
    "iq2_s": Block(22, 256, 82),
    "iq2_xs": Block(17, 256, 74),
    "iq2_xxs": Block(16, 256, 66),
    "iq1_m": Block(29, 256, 56),
    "iq1_s": Block(19, 256, 50),
    "mxfp4": Block(39, 32, 17),
    "nvfp4": Block(40, 64, 36),
    "tq2_0": Block(35, 256, 66),
    "tq1_0": Block(34, 256, 54),
    "q2_0": Block(42, 64, 18),
    "q1_0": Block(41, 128, 18),
}

TYPES: dict[str, QuantizationType] = {
    t.name: t
    for t in (
        QuantizationType("F16", 1, "f16", 16.0, "none", None),
        QuantizationType("BF16", 32, "bf16", 16.0, "none", None),
        QuantizationType("F32", 0, "f32", 32.0, "none", None),
        QuantizationType("Q8_0", 7, "q8_0", 8.5, "none", "f16"),
        QuantizationType("Q6_K", 18, "q6_k", 6.56, "gains", "q8_0"),
        QuantizationType("Q5_K_M", 17, "q5_k", 5.70, "gains", "q5_1"),
        QuantizationType("Q5_K_S", 16, "q5_k", 5.57, "gains", "q5_1"),
        QuantizationType("Q5_1", 9, "q5_1", 6.04, "gains", "f16"),
        QuantizationType("Q5_0", 8, "q5_0", 5.58, "gains", "f16"),
        QuantizationType("Q4_K_M", 15, "q4_k", 4.89, "gains", "q5_0"),
        QuantizationType("Q4_K_S", 14, "q4_k", 4.67, "gains", "q5_0"),
        QuantizationType("Q4_1", 3, "q4_1", 5.10, "gains", "f16"),
        QuantizationType("Q4_0", 2, "q4_0", 4.65, "gains", "f16"),
        QuantizationType("IQ4_NL", 25, "iq4_nl", 4.65, "gains", "f16"),
        QuantizationType("IQ4_XS", 30, "iq4_xs", 4.42, "gains", "iq4_nl"),
        QuantizationType("Q3_K_L", 13, "q3_k", 4.30, "gains", "q4_0"),
        QuantizationType("Q3_K_M", 12, "q3_k", 4.00, "gains", "q4_0"),
        QuantizationType("Q3_K_S", 11, "q3_k", 3.64, "gains", "q4_0"),
        QuantizationType("IQ3_M", 27, "iq3_s", 3.76, "gains", "iq4_nl"),
        QuantizationType("IQ3_S", 26, "iq3_s", 3.66, "gains", "iq4_nl"),
        QuantizationType("IQ3_XS", 22, "iq3_s", 3.50, "required", "iq4_nl"),
        QuantizationType("IQ3_XXS", 23, "iq3_xxs", 3.25, "required", "iq4_nl"),
        QuantizationType("Q2_K", 10, "q2_k", 3.16, "gains", "q4_0"),
        QuantizationType("Q2_K_S", 21, "q2_k", 2.97, "required", "q4_0"),
        QuantizationType("IQ2_M", 29, "iq2_s", 2.93, "required", "iq4_nl"),
        QuantizationType("IQ2_S", 28, "iq2_xs", 2.74, "required", "iq4_nl"),
        QuantizationType("IQ2_XS", 20, "iq2_xs", 2.59, "required", "iq4_nl"),
        QuantizationType("IQ2_XXS", 19, "iq2_xxs", 2.38, "required", "iq4_nl"),
        QuantizationType("IQ1_M", 31, "iq1_m", 2.15, "required", "iq4_nl"),
        QuantizationType("IQ1_S", 24, "iq1_s", 2.00, "required", "iq4_nl"),
        QuantizationType(
            "MXFP4_MOE", 38, "mxfp4", 8.5, "none", "f16", "it is for the experts of a mixture; all others become Q8_0"
        ),
        QuantizationType("NVFP4", 39, "nvfp4", 4.5, "none", None, "llama.cpp reads it but cannot quantize to it"),
        QuantizationType("TQ2_0", 37, "tq2_0", 2.52, "none", "q4_0", _FEW_VALUES),
        QuantizationType("TQ1_0", 36, "tq1_0", 2.19, "none", "q4_0", _FEW_VALUES),
        QuantizationType("Q2_0", 41, "q2_0", 2.68, "none", "q4_0", _FEW_VALUES),
        QuantizationType("Q1_0", 40, "q1_0", 1.48, "none", None, _FEW_VALUES),
    )
}

_OFFERED = {name: t for name, t in TYPES.items() if t.not_offered is None}
# What a tensor may be given by name: all but what no file type of `_OFFERED` is for.
TENSOR_TYPES: dict[str, Block] = {
    name: block for name, block in BLOCKS.items() if name not in {"nvfp4", "tq1_0", "tq2_0", "q1_0", "q2_0"}
}


def check_types(names: Iterable[str]) -> None:
    """Raise `ValueError` unless every name is a type that can be made, and none stands twice."""
    names = tuple(names)
    unknown = [name for name in names if name not in TYPES]
    if unknown:
        raise ValueError(f"unknown quantization types: {', '.join(unknown)} (known: {', '.join(_OFFERED)})")
    for name in names:
        if reason := TYPES[name].not_offered:
            raise ValueError(f"the quantization type {name} is not offered: {reason}")
    if len(set(names)) != len(names):
        raise ValueError(f"a quantization type stands twice: {', '.join(names)}")


def check_tensor_types(tensor_types: Mapping[str, str]) -> None:
    """Raise `ValueError` unless every pattern is a regular expression, and every type one that a tensor may have.

    One that takes for ever, such as `(.*)*X`, is not found out: it holds up the check before training.
    """
    for pattern, name in tensor_types.items():
        if name not in TENSOR_TYPES:
            raise ValueError(f"unknown tensor type of {pattern!r}: {name} (known: {', '.join(TENSOR_TYPES)})")
        try:
            re.compile(pattern)
        except re.error as err:
            raise ValueError(f"the tensor pattern {pattern!r} is no regular expression: {err}") from err


def applies_tensor_types(type_name: str) -> bool:
    """Whether single tensors of this file type can have others: not where nothing is quantized."""
    return TYPES[type_name].block not in _UNQUANTIZED


def find_need(type_name: str, tensor_types: Mapping[str, str]) -> Need:
    """What an importance matrix is to a file of this type in which some tensors have others."""
    needs: list[Need] = [TYPES[type_name].imatrix]
    if applies_tensor_types(type_name):
        needs += [_find_tensor_need(name) for name in tensor_types.values()]
    return max(needs, key=_NEEDS.index)


def needs_importance(names: Iterable[str], tensor_types: Mapping[str, str]) -> bool:
    """Whether one of these file types cannot be made without an importance matrix."""
    return any(find_need(name, tensor_types) == "required" for name in names)


def uses_importance(type_name: str, tensor_types: Mapping[str, str], imatrix: str) -> bool:
    """Whether a file is made with the importance matrix, if there is one.

    Args:
        type_name: A key of `TYPES`.
        tensor_types: The recipe's, as `imatrix` is; "never" means: unless it cannot be made without.
        imatrix: "auto", "always" or "never".
    """
    need = find_need(type_name, tensor_types)
    return need == "required" or (need == "gains" and imatrix != "never")


def _find_tensor_need(name: str) -> Need:
    if tensor_needs_importance(name):
        return "required"
    return "gains" if any(t.block == name and t.imatrix != "none" for t in TYPES.values()) else "none"


def tensor_needs_importance(name: str) -> bool:
    """Whether llama.cpp refuses a tensor of this ggml type without an importance matrix (llama-quant.cpp)."""
    return name in {"iq3_xxs", "iq2_xxs", "iq2_xs", "iq2_s", "iq1_m", "iq1_s"}
