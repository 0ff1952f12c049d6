"""The parts of the recipe for what comes after training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ft_pipeline.quantization.types import check_tensor_types, check_types
from ft_pipeline.recipe_section import Name, Section, Share


class MergingSection(Section):
    """How adapter and base become one model."""

    merge_base: Literal["w16", "nf4"] = Field(
        "w16",
        description="w16: the 16-bit base. nf4: the base as the adapter saw it in training, rounded to NF4 and back.",
    )
    dtype: Literal["float16", "bfloat16"] = Field(
        "float16",
        description="Type of the merged weights. float16 keeps 11 bits and ends at 65504, beyond which a weight is an "
        "error; bfloat16 keeps 8 bits and takes all values.",
    )


class QuantizationSection(Section):
    """The GGUF files that ship. The first type is the one that is gated and published."""

    types: tuple[str, ...] = Field(("Q4_K_M",), min_length=1, description="llama.cpp file types, e.g. Q4_K_M.")
    tensor_types: dict[str, str] = Field(
        default_factory=dict,
        description="Other types for some matrices: a regular expression (Python's) to be found in their GGUF names, "
        "to a ggml type, such as {ffn_down: q6_k}. The first that is found counts.",
    )
    imatrix: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Quantize with the importance matrix of the training rows; auto: where the type gains from it.",
    )
    split_gib: float | None = Field(None, gt=0, description="Larger GGUFs become several files of at most this size.")
    context_tokens: int = Field(4096, ge=16, description="num_ctx of the Ollama Modelfile.")
    system: str | None = Field(None, description="SYSTEM of the Ollama Modelfile.")
    ollama: bool = Field(
        True, description="Write a Modelfile; false for a chat template that Ollama's TEMPLATE cannot express."
    )
    lora_gguf: bool = Field(True, description="Also write the adapter as a GGUF, to be loaded on top of the base's.")

    @field_validator("types")
    @classmethod
    def _known_types(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        check_types(types)
        return types

    @field_validator("tensor_types")
    @classmethod
    def _known_tensor_types(cls, tensor_types: dict[str, str]) -> dict[str, str]:
        check_tensor_types(tensor_types)
        return tensor_types


class GateSection(Section):
    """What a challenger must reach, in its first quantization type, on the held-out rows."""

    min_exact_match: Share = Field(0.0, description="Share of answers that equal the reference.")
    min_stop_rate: Share = Field(0.99, description="Share of answers that end by themselves.")
    max_perplexity: float | None = Field(None, gt=0, description="On the references' tokens.")
    min_test_set_exact_match: dict[Name, Share] = Field(default_factory=dict, description="By name of the test set.")
    tie: Literal["champion", "challenger"] = Field(
        "champion", description="Who stays when the paired interval of the difference includes zero."
    )


class EvaluationSection(Section):
    """How the GGUF files are scored."""

    max_new_tokens: int = Field(256, ge=1, description="An answer is cut after this many tokens.")
    max_rows_per_set: int = Field(1000, ge=1, description="The first rows by their split hash are taken.")
    sample_rows: int = Field(12, ge=0, le=200, description="Rows shown side by side in the report.")
    gate: GateSection = GateSection()


class RetentionSection(Section):
    """What stays on disk after a publication."""

    keep_last: int = Field(
        3,
        ge=1,
        description="How many runs keep what they made, beside the champion; 16-bit weights only of the last.",
    )
