"""Unsloth's second computation of a layer, without the product that backward never reads.

A checkpointed layer is computed again to have what its backward needs. The last product of the MLP is not among that:
its result only goes into the residual sum, whose backward reads no values. It is a quarter of the layer's products.
Blocks that are compiled as a whole would not ask, so Unsloth runs them one operation at a time.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_state = threading.local()


def skip_unread_products(model: Any) -> bool:
    """Let the model's decoder layers leave that product out when they are computed again.

    Only where a layer is known to end with `residual + mlp(...)`, as those of Llama, Mistral and Qwen do and those of
    Gemma 2 do not, and only products of Unsloth's fused MLP; everything else stays as it is.

    Returns:
        Whether this model's layers are of that kind.
    """
    try:
        from unsloth.kernels.fast_lora import matmul_lora
        from unsloth.models._utils import find_decoder_layers
        from unsloth.models.llama import LlamaDecoderLayer_fast_forward
        from unsloth_zoo.gradient_checkpointing import in_gradient_checkpoint_recompute
    except ImportError:
        return False  # an Unsloth that is built otherwise
    layers = find_decoder_layers(model)
    known = LlamaDecoderLayer_fast_forward.__code__
    if any(inspect.unwrap(type(layer).forward).__code__ is not known for layer in layers):
        return False
    _watch_products(matmul_lora)
    for layer in layers:
        layer.mlp.forward = _wrap(layer.mlp.forward, layer.mlp.down_proj, in_gradient_checkpoint_recompute)
    return True


def _wrap(forward: Callable[[Any], Any], down_proj: Any, is_computed_again: Callable[[], bool]) -> Callable[[Any], Any]:
    def lean_forward(states: Any) -> Any:
        if not is_computed_again():
            return forward(states)
        with _skipping(getattr(down_proj, "base_layer", down_proj)):
            return forward(states)

    return lean_forward


@contextmanager
def _skipping(linear: Any) -> Iterator[None]:
    _state.skipped = linear
    try:
        yield
    finally:
        _state.skipped = None


def _watch_products(multiply: Callable[..., Any]) -> None:
    """Have Unsloth's products ask whether they are the one to skip."""
    from unsloth.kernels import fast_lora

    if getattr(multiply, "asks", False):
        return

    def matmul_lora(states: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
        skipped = getattr(_state, "skipped", None)
        if skipped is not None and weight is skipped.weight:
            return states.new_empty(*states.shape[:-1], skipped.out_features)
        return multiply(states, weight, *args, **kwargs)

    matmul_lora.asks = True  # type: ignore[attr-defined]
    fast_lora.matmul_lora = matmul_lora
