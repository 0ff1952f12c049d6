"""How much of a card's memory a model takes in llama.cpp, by its shape."""

from __future__ import annotations

from ft_pipeline.evaluation.gguf_facts import GgufFacts

_MIB = 2**20
# The CUDA context with llama.cpp's kernels, cuBLAS' workspace, and the pool that ggml takes scratch buffers from
# (ggml/src/ggml-cuda): none of them is in llama.cpp's own figures. 711 to 765 MiB with an 8B on an H100 and an H200.
RESERVED_BYTES = 896 * _MIB
# llama.cpp rounds each sequence's cells up to this (src/llama-context.cpp).
CELL_BLOCK = 256
LARGEST_MICRO_BATCH, _SMALLEST_MICRO_BATCH = 512, 128
# A micro-batch's logits stay below this many values (256 MiB).
_MAX_LOGITS = 2**26


def count_vram(
    facts: GgufFacts,
    n_gpu_layers: int,
    sequences: int,
    tokens_per_sequence: int,
    micro_batch_tokens: int,
    *,
    flash_attention: bool = False,
) -> int:
    """Bytes of the card's memory that a model takes with these layers on it: weights, caches, compute buffer, reserve.

    Args:
        facts: Of the file.
        n_gpu_layers: llama.cpp's count, 1 at least.
        sequences: Conversations, each with cells of its own.
        tokens_per_sequence: Cells of each.
        micro_batch_tokens: Tokens that go through a layer at once.
        flash_attention: Attention is computed without its matrix.
    """
    cells = round_up_cells(tokens_per_sequence)
    first = max(0, len(facts.layers) + 1 - n_gpu_layers)
    there, left = facts.layers[first:], facts.layers[:first]
    weights = facts.output_bytes + sum(layer.weight_bytes for layer in there)
    caches = sum(sequences * (cells * layer.cache_bytes_per_token + layer.state_bytes) for layer in there)
    # A layer that is left is copied, matrix by matrix, for a batch that is large enough to be worth it: room for two.
    borrowed = 2 * max((layer.largest_bytes for layer in left), default=0)
    return (
        weights + caches + borrowed + _count_compute(facts, cells, micro_batch_tokens, flash_attention) + RESERVED_BYTES
    )


def choose_micro_batch(facts: GgufFacts, batch_tokens: int) -> int:
    """Tokens that go through a layer at once: llama.cpp's 512, fewer where the vocabulary makes their logits large."""
    affordable = _MAX_LOGITS // max(1, facts.vocabulary)
    size = LARGEST_MICRO_BATCH
    while size > max(affordable, _SMALLEST_MICRO_BATCH):
        size //= 2
    return min(size, max(1, batch_tokens))


def round_up_cells(tokens: int) -> int:
    """Cells that llama.cpp makes for a sequence of so many tokens."""
    return -(-tokens // CELL_BLOCK) * CELL_BLOCK


def _count_compute(facts: GgufFacts, cells: int, tokens: int, flash_attention: bool) -> int:
    """The compute buffer, in which one step's tensors take the place of another's: the largest, and what stays.

    All are in 32 bits. The largest are the logits and, without flash attention, the attention's matrix: tokens x cells
    x heads. A row of the mask is as long as the cells.
    """
    hidden = 4 * tokens * facts.hidden
    mask = (2 if flash_attention else 4) * tokens * cells if facts.heads else 0
    matrix = indices = 0
    if not flash_attention:
        matrix = 4 * tokens * cells * facts.heads
        # Values lie across the cache then, and each has an index of 64 bits to be written by.
        indices = 2 * tokens * max((layer.cache_bytes_per_token for layer in facts.layers), default=0)
    mlp = 3 * 4 * tokens * facts.intermediate
    logits = 4 * tokens * facts.vocabulary
    return 2 * hidden + mask + indices + max(4 * hidden + matrix, mlp, logits)
