"""How a model is loaded and called. A new backend is one file here, one line below, and a test."""

from __future__ import annotations

from ft_pipeline.finetuning.backends.protocol import Backend
from ft_pipeline.finetuning.backends.trl import TrlBackend
from ft_pipeline.finetuning.backends.unsloth import UnslothBackend

BACKENDS: dict[str, Backend] = {"unsloth": UnslothBackend(), "trl": TrlBackend()}

__all__ = ["BACKENDS", "Backend"]
