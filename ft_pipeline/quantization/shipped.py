"""The files of a quantization type, and what a summary says of all types together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.quantization.parity import ParityReport
from ft_pipeline.quantization.quantize import QuantizedFile
from ft_pipeline.summary import Check, Scalar


@dataclass(frozen=True)
class ShippedFile:
    """One quantization type: how it was made, and the file or files that it is."""

    made: QuantizedFile
    parts: tuple[Path, ...]
    uses_importance: bool

    @property
    def first(self) -> Path:
        """What llama.cpp is given."""
        return self.parts[0]

    @property
    def size_bytes(self) -> int:
        """Of all parts."""
        return sum(part.stat().st_size for part in self.parts)


def list_files(shipped: Sequence[ShippedFile], parameters: int) -> list[dict[str, Scalar]]:
    """A row for each type."""
    return [
        {
            "type": file.made.type,
            "file": file.first.name,
            "parts": len(file.parts),
            "size_bytes": file.size_bytes,
            "predicted_bytes": file.made.predicted_bytes,
            "bits_per_weight": round(8 * file.size_bytes / parameters, 2),
            "importance_matrix": file.uses_importance,
            "fallback_tensors": len(file.made.fallbacks),
            "quantize_seconds": round(file.made.wall_seconds, 2),
        }
        for file in shipped
    ]


def count_figures(
    conversations: int, shipped: Sequence[ShippedFile], parity: Sequence[ParityReport], parameters: int
) -> dict[str, Scalar]:
    """Figures of the published type, which is the first, and of all of them together.

    Args:
        conversations: How many of the data set's own were compared.
        shipped: All types.
        parity: Of each type.
        parameters: Number of weights.
    """
    return {
        "size_bytes": shipped[0].size_bytes,
        "predicted_bytes": shipped[0].made.predicted_bytes,
        "parameters": parameters,
        "quantize_seconds": sum(file.made.wall_seconds for file in shipped),
        "fallback_tensors": sum(len(file.made.fallbacks) for file in shipped),
        "parity_conversations": conversations,
        "parity_renderings": parity[0].renderings,
        "parity_tokens": parity[0].tokens,
        "parity_known_differences": sum(known.renderings for known in parity[0].known),
        "built_in_template_different": parity[0].built_in_different,
        "bos_tokens": parity[0].bos_tokens,
    }


def judge_parity(parity: Sequence[ParityReport]) -> Check:
    """The check that every file reads conversations as they were trained."""
    failed = [report for report in parity if not report.holds]
    held = f"{parity[0].renderings} renderings, in each of {len(parity)} files"
    return Check(
        name="token_parity",
        passed=not failed,
        blocking=True,
        value=sum(report.different for report in parity),
        limit=0,
        detail=failed[0].describe() if failed else held,
    )
