"""Configs of well-known bases, for planning before one is on disk. Source: the config.json of each on the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _shape(model_type: str, sizes: tuple[int, int, int, int, int], vocabulary: int, **more: Any) -> dict[str, Any]:
    """Sizes: hidden, intermediate, layers, heads, key-value heads."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    return {"model_type": model_type, "vocab_size": vocabulary} | dict(zip(names, sizes, strict=True)) | more


_LLAMA_3 = {"max_position_embeddings": 131_072}
# By the part of the Hub name that says which shape it is.
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "llama-3.2-1b": _shape(
        "llama", (2048, 8192, 16, 32, 8), 128_256, head_dim=64, tie_word_embeddings=True, **_LLAMA_3
    ),
    "llama-3.2-3b": _shape(
        "llama", (3072, 8192, 28, 24, 8), 128_256, head_dim=128, tie_word_embeddings=True, **_LLAMA_3
    ),
    "llama-2-7b": _shape("llama", (4096, 11008, 32, 32, 32), 32_000, max_position_embeddings=4096),
    "mistral-7b-v0.3": _shape("mistral", (4096, 14336, 32, 32, 8), 32_768, max_position_embeddings=32_768),
    "mistral-7b-instruct-v0.3": _shape("mistral", (4096, 14336, 32, 32, 8), 32_768, max_position_embeddings=32_768),
    "qwen2.5-7b": _shape("qwen2", (3584, 18944, 28, 28, 4), 152_064, max_position_embeddings=32_768),
    "llama-3.1-8b": _shape("llama", (4096, 14336, 32, 32, 8), 128_256, **_LLAMA_3),
    "qwen3-8b": _shape("qwen3", (4096, 12288, 36, 32, 8), 151_936, head_dim=128, max_position_embeddings=40_960),
    "llama-2-13b": _shape("llama", (5120, 13824, 40, 40, 40), 32_000, max_position_embeddings=4096),
    "qwen2.5-14b": _shape("qwen2", (5120, 13824, 48, 40, 8), 152_064, max_position_embeddings=32_768),
    "yi-34b": _shape("llama", (7168, 20480, 60, 56, 8), 64_000, max_position_embeddings=4096),
    "llama-3.1-70b": _shape("llama", (8192, 28672, 80, 64, 8), 128_256, **_LLAMA_3),
}


def find_shape(source: str) -> Mapping[str, Any] | None:
    """The config of a base that is not on disk, by its Hub name; None if it is not known."""
    name = source.rsplit("/", 1)[-1].lower()
    found = [key for key in SHAPES if key in name]
    return SHAPES[max(found, key=len)] if found else None
