"""llama.cpp's file types that this pipeline offers.

Names and numbers are those of `enum llama_ftype` in llama.cpp's include/llama.h; the sizes are the ones that its
tools/quantize/quantize.cpp prints for Llama-3-8B (8.03e9 parameters).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_LLAMA3_8B_PARAMETERS = 8.03e9


@dataclass(frozen=True)
class QuantizationType:
    """One file type: its number in llama.cpp and the size in GiB of Llama-3-8B in it."""

    name: str
    ftype: int
    llama3_8b_gib: float

    @property
    def bits_per_weight(self) -> float:
        """Bits that a weight takes on average in a Llama-3-8B file."""
        return self.llama3_8b_gib * 2**30 * 8 / _LLAMA3_8B_PARAMETERS


TYPES: dict[str, QuantizationType] = {
    t.name: t
    for t in (
        QuantizationType("F16", 1, 14.96),
        QuantizationType("Q8_0", 7, 7.96),
        QuantizationType("Q6_K", 18, 6.14),
        QuantizationType("Q5_K_M", 17, 5.33),
        QuantizationType("Q5_K_S", 16, 5.21),
        QuantizationType("Q5_0", 8, 5.21),
        QuantizationType("Q4_K_M", 15, 4.58),
        QuantizationType("Q4_K_S", 14, 4.37),
        QuantizationType("Q4_0", 2, 4.34),
        QuantizationType("Q3_K_L", 13, 4.03),
        QuantizationType("Q3_K_M", 12, 3.74),
        QuantizationType("Q3_K_S", 11, 3.41),
        QuantizationType("Q2_K", 10, 2.96),
    )
}


def check_types(names: Iterable[str]) -> None:
    """Raise `ValueError` unless every name is a known type and none stands twice."""
    names = tuple(names)
    unknown = [name for name in names if name not in TYPES]
    if unknown:
        raise ValueError(f"unknown quantization types: {', '.join(unknown)} (known: {', '.join(TYPES)})")
    if len(set(names)) != len(names):
        raise ValueError(f"a quantization type stands twice: {', '.join(names)}")
