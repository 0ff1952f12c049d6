"""Gradient checkpointing as transformers knows it. Source: Chen et al. 2016, arXiv:1604.06174."""

from __future__ import annotations

from typing import Any


def recompute_all_or_none(model: Any, layers: int) -> None:
    """All decoder layers are computed twice, or, if `layers` is 0, none."""
    base = model.get_base_model()
    if layers:
        # Reentrant checkpoints would need gradients of the frozen embeddings' output.
        base.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        base.gradient_checkpointing_disable()
