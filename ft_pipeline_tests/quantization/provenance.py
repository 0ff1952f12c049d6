"""Where a model of the tests comes from."""

from __future__ import annotations

from typing import Any

from ft_pipeline.quantization.metadata import Provenance

# What a GGUF's metadata says of it.
SAID_OF_ORIGIN: dict[str, Any] = {
    "general.finetune": "mine",
    "general.base_model.count": 1,
    "general.base_model.0.name": "model",
    "general.base_model.0.organization": "org",
    "general.base_model.0.version": "a" * 40,
    "general.base_model.0.repo_url": "https://huggingface.co/org/model",
    "general.tags": ["text-generation", "ft_pipeline"],
}


def make_provenance(**changes: Any) -> Provenance:
    fields: dict[str, Any] = {
        "name": "mine",
        "description": "Answers tickets.",
        "base_name": "org/model",
        "base_revision": "a" * 40,
        "base_identity": f"org/model@{'a' * 40}",
        "data_fingerprint": "d" * 24,
        "adapter_fingerprint": "f" * 24,
        "recipe": {"training": {"epochs": 2.0, "lora": {"rank": 16, "alpha": 32}}},
        "figures": {"held_out_loss": 0.123456, "steps": 7, "device": "cpu"},
    }
    return Provenance.model_validate({**fields, **changes})
