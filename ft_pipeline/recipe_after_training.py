"""The parts of the recipe for what comes after training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ft_pipeline.quantization.types import check_tensor_types, check_types
from ft_pipeline.recipe_section import Section


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


class PublishingSection(Section):
    """Who is told of a new champion, beside the published folder."""

    ollama: Literal["auto", "never", "always"] = Field(
        "auto",
        description="Hand the champion to Ollama; auto: where its program is installed and its server answers. always: "
        "a server that does not answer is a failed delivery.",
    )
    ollama_name: str | None = Field(
        None,
        pattern=r"^([a-z0-9][a-z0-9_-]{0,79}/)?[a-z0-9][a-z0-9._-]{0,79}(:[a-z0-9][a-z0-9._-]{0,79})?$",
        description="What Ollama calls the model; none: ft_pipeline- and the recipe's name.",
    )
    hub_repo: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Repository of the Hugging Face Hub, as owner/name, that the champion is uploaded to.",
    )
    hub_private: bool = Field(True, description="Whether that repository is made a private one, where it is made.")


class RetentionSection(Section):
    """What stays on disk after a publication."""

    keep_last: int = Field(
        3,
        ge=1,
        description="How many runs keep what they made, beside the champion; 16-bit weights only of the last.",
    )
    keep_champions: int = Field(
        2, ge=0, description="How many earlier champions stay to be gone back to, beside the champion and the best."
    )
