"""GGUF files of tiny models that are no plain Llama, with random weights and the vocabulary of `tiny_gguf`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from ft_pipeline_tests.evaluation.tiny_gguf import (
    CHATML,
    CONTEXT_TOKENS,
    TOKENS,
    Tensors,
    add_vocabulary,
    write_tensors,
)

SLIDING_WINDOW = 12


class _Draws:
    """Normally distributed weights."""

    def __init__(self) -> None:
        self._generator = np.random.default_rng(0)

    def __call__(self, *shape: int, spread: float = 0.12) -> npt.NDArray[np.float32]:
        return self._generator.normal(0, spread, shape).astype(np.float32)


def write_mamba(path: Path) -> Path:
    """Two recurrent layers: no attention, no cache, no going back."""
    width, inner, state, taps, rank, layers = 64, 128, 16, 4, 4, 2
    writer = _begin(path, "mamba", width, layers)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(taps)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    draw, weights = _Draws(), dict[str, npt.NDArray[np.float32]]()
    for layer in range(layers):
        weights |= {
            f"blk.{layer}.{name}": tensor
            for name, tensor in {
                "attn_norm.weight": np.ones(width, np.float32),
                "ssm_in.weight": draw(2 * inner, width, spread=0.3),
                "ssm_conv1d.weight": draw(inner, taps, spread=0.3),
                "ssm_conv1d.bias": draw(inner, spread=0.3),
                "ssm_x.weight": draw(rank + 2 * state, inner, spread=0.3),
                "ssm_dt.weight": draw(inner, rank, spread=0.3),
                "ssm_dt.bias": draw(inner, spread=0.3),
                "ssm_a": -np.exp(draw(inner, state, spread=0.3)),
                "ssm_d": np.ones(inner, np.float32),
                "ssm_out.weight": draw(width, inner, spread=0.3),
            }.items()
        }
    ends = {"token_embd.weight": draw(len(TOKENS), width, spread=1.0), "output_norm.weight": np.ones(width, np.float32)}
    write_tensors(writer, {**weights, **ends, "output.weight": draw(len(TOKENS), width, spread=0.5)})
    return path


def write_gemma2(path: Path, context_tokens: int = CONTEXT_TOKENS) -> Path:
    """Four layers, every other one of which sees a sliding window alone."""
    width, heads, layers = 256, 4, 4
    writer = _begin(path, "gemma2", width, layers, context_tokens)
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads // 2)
    writer.add_key_length(width // heads)
    writer.add_value_length(width // heads)
    writer.add_sliding_window(SLIDING_WINDOW)
    writer.add_attn_logit_softcapping(50.0)
    writer.add_final_logit_softcapping(30.0)
    draw = _Draws()
    weights = {"token_embd.weight": draw(len(TOKENS), width, spread=0.3)}
    for layer in range(layers):
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            weights[f"blk.{layer}.{name}.weight"] = np.ones(width, np.float32)
        for name in ("attn_q", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            weights[f"blk.{layer}.{name}.weight"] = draw(width, width)
        for name in ("attn_k", "attn_v"):
            weights[f"blk.{layer}.{name}.weight"] = draw(width // 2, width)
    write_tensors(writer, {**weights, "output_norm.weight": np.ones(width, np.float32)})
    return path


def write_wide_heads(path: Path) -> Path:
    """A Llama whose heads are together twice as wide as what goes from layer to layer, as Qwen 3's are."""
    width, heads, head_width, layers = 128, 4, 64, 2
    writer = _begin(path, "llama", width, layers)
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_key_length(head_width)
    writer.add_value_length(head_width)
    writer.add_rope_dimension_count(head_width)
    draw = _Draws()
    weights = {"token_embd.weight": draw(len(TOKENS), width, spread=1.0)}
    for layer in range(layers):
        weights |= {f"blk.{layer}.{name}.weight": np.ones(width, np.float32) for name in ("attn_norm", "ffn_norm")}
        for name in ("attn_q", "attn_k", "attn_v"):
            weights[f"blk.{layer}.{name}.weight"] = draw(heads * head_width, width)
        weights[f"blk.{layer}.attn_output.weight"] = draw(width, heads * head_width)
        for name in ("ffn_gate", "ffn_up", "ffn_down"):
            weights[f"blk.{layer}.{name}.weight"] = draw(width, width)
    ends: Tensors = {"output_norm.weight": np.ones(width, np.float32), "output.weight": draw(len(TOKENS), width)}
    write_tensors(writer, weights | ends)
    return path


def _begin(path: Path, architecture: str, width: int, layers: int, context_tokens: int = CONTEXT_TOKENS) -> Any:
    writer: Any = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(context_tokens)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_layer_norm_rms_eps(1e-5)
    add_vocabulary(writer)
    writer.add_chat_template(CHATML)
    return writer
