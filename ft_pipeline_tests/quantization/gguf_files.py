"""GGUF files of a Llama in a given shape, written without a model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama."""

    blocks: int = 2
    hidden: int = 256
    feed_forward: int = 256
    vocabulary: int = 64
    heads: int = 4
    kv_heads: int = 1

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Names and shapes of what can be quantized."""
        kv = self.hidden * self.kv_heads // self.heads
        found = {"token_embd": (self.vocabulary, self.hidden), "output": (self.vocabulary, self.hidden)}
        for block in range(self.blocks):
            layers = {
                "attn_q": (self.hidden, self.hidden),
                "attn_k": (kv, self.hidden),
                "attn_v": (kv, self.hidden),
                "attn_output": (self.hidden, self.hidden),
                "ffn_gate": (self.feed_forward, self.hidden),
                "ffn_up": (self.feed_forward, self.hidden),
                "ffn_down": (self.hidden, self.feed_forward),
            }
            found |= {f"blk.{block}.{name}": shape for name, shape in layers.items()}
        return {f"{name}.weight": shape for name, shape in found.items()}


LLAMA_3_8B = Shape(32, 4096, 14336, 128_256, 32, 8)


def write_llama(path: Path, shape: Shape, *, sparse: bool = False) -> Path:
    """A Llama GGUF of float16 matrices, without a vocabulary; sparse: all zeros, and no room on the disk."""
    import numpy as np
    from gguf import GGUFWriter

    writer: Any = GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.blocks)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)
    random, size_bytes = np.random.default_rng(0), 0
    for name, (rows, columns) in shape.matrices.items():
        size_bytes += 2 * rows * columns
        if sparse:
            writer.add_tensor_info(name, (rows, columns), np.dtype(np.float16), 2 * rows * columns)
        else:
            writer.add_tensor(name, (random.standard_normal((rows, columns)) * 0.02).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    if sparse:
        writer.write_ti_data_to_file()
        writer.close()
        os.truncate(path, -(-path.stat().st_size // 32) * 32 + size_bytes)
    else:
        writer.write_tensors_to_file()
        writer.close()
    return path


def make_importance(shape: Shape) -> dict[str, Any]:
    """An importance matrix as training makes it: of all layers, not of embedding and output."""
    import numpy as np

    random = np.random.default_rng(1)
    return {
        name: random.gamma(0.5, 1.0, columns).astype(np.float32) + np.float32(0.01)
        for name, (_, columns) in shape.matrices.items()
        if name.startswith("blk.")
    }
