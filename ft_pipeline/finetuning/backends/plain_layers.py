"""Unsloth's model with linear layers that are called one by one, so that their hooks hear of their inputs.

On a GPU its kernels take the weights of several layers at once (`unsloth/kernels/fast_lora.py`) and call none of them:
they stand in each attention's `apply_qkv` and `apply_o`, and in place of each MLP's `forward`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def plain_layers(model: Any) -> Iterator[None]:
    """Attention and MLP as transformers computes them, for as long as this lasts."""
    plain = {"apply_qkv": _apply_qkv, "apply_o": _apply_o}
    kept = []
    for module in model.modules():
        own = vars(module)
        fused = [name for name in plain if name in own]
        if "forward" in own and hasattr(module, "down_proj"):
            fused.append("forward")
        kept += [(module, name, own[name]) for name in fused]
    try:
        for module, name, _ in kept:
            if name == "forward":
                del module.forward  # the class has its own
            else:
                setattr(module, name, plain[name])
        yield
    finally:
        for module, name, function in kept:
            setattr(module, name, function)


def _apply_qkv(attention: Any, states: Any) -> tuple[Any, Any, Any]:
    return attention.q_proj(states), attention.k_proj(states), attention.v_proj(states)


def _apply_o(attention: Any, states: Any) -> Any:
    return attention.o_proj(states)
