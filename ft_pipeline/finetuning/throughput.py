"""How fast a layout trains on a card: floating point operations over what the card reaches, and what each pass costs.

Operations a token, in multiples of the weights of the matrix products: 2 forward, 2 for the gradient of the input (the
weights are frozen), 2 more where a layer is computed twice; adapters 6. Source: Kaplan et al. 2020, arXiv:2001.08361,
section 2.1. A micro-batch costs its launches too, and reads and dequantizes every weight once a pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from ft_pipeline.finetuning.architecture import Architecture, find_targets
from ft_pipeline.finetuning.cards import Card
from ft_pipeline.finetuning.memory import Layout, count_trainable
from ft_pipeline.finetuning.row_lengths import RowLengths
from ft_pipeline.finetuning.schedule import Slicing
from ft_pipeline.recipe import TrainingSection

_EXAMPLES = 10_000
# NF4 is read (0.5 bytes a weight) and bf16 written for the product that reads it.
_DEQUANTIZE_BYTES = 2.5
# Causal attention forward and backward (3.5 forwards, as flash attention recomputes): Dao 2023, arXiv:2307.08691, 4.1.
_ATTENTION_FORWARD = 2
_ATTENTION_PASSES = 3.5
# Python and launches of one layer, forward and backward, whatever its size, and more where it is computed twice: an 8B
# on an H200 takes 0.30 s a pass of 2,048 tokens that keeps all (6,781 tokens/s), 0.34 s computed twice (5,987).
_LAYER_FLOOR_SECONDS = 9.4e-3
_TWICE_FLOOR_SECONDS = 1.2e-3
# The same of plain TRL: 0.72 s a pass (2 rows of 153 tokens, 426 tokens/s).
_TRL_FLOORS = 2.1
# Optimizer, clipping, loss scaling: some passes over the adapter, and Python.
_STEP_SECONDS = 0.03
# Rows of embeddings from the host's memory, which nothing hides: 9,414 tokens/s instead of 9,829 (8B, H200).
_HOST_GB_PER_S = 1.9
# Plain TRL against Unsloth: full rows of an 8B on the H200, 5,414 tokens/s.
_TRL_SHARE = 0.62
_LEAN_FAMILIES = {"Llama", "Mistral", "Qwen2", "Qwen3"}
_MLP = {"gate_proj", "up_proj", "down_proj"}
# Two cores, a Llama of 3.5M: 2,500 tokens/s by 8 rows of 100 tokens, 4,400 by 32. Only compares layouts.
REFERENCE_CPU = Card("cpu", "CPU", 0, 0.2, 20, (0, 0), efficiency=0.5, launch_seconds=10e-3)


@dataclass(frozen=True)
class TimePrediction:
    """Predicted speed.

    Attributes:
        tokens_per_second: Real tokens, padding left out.
        step_seconds: Of one optimizer step.
        training_hours: For the recipe's epochs over its rows.
        hours_per_10k_examples: For 10,000 rows of the same lengths, once.
    """

    tokens_per_second: float
    step_seconds: float
    training_hours: float
    hours_per_10k_examples: float


def predict_time(
    architecture: Architecture, training: TrainingSection, layout: Layout, lengths: RowLengths, card: Card
) -> TimePrediction:
    """Speed of a layout on a card."""
    step = lengths.lay(training.effective_batch_tokens, Slicing(layout.micro_batch_tokens, layout.packing))
    flops = count_flops(architecture, training, layout, step.attended_tokens)
    reached = card.bf16_tflops * 1e12 * card.efficiency * (_TRL_SHARE if training.backend == "trl" else 1.0)
    computed = step.computed_tokens * flops / reached
    computed += step.micro_batches * _pass_seconds(architecture, training, layout, card)
    seconds = max(computed, step.micro_batches * _floor_seconds(architecture, training, layout, card)) + _STEP_SECONDS
    if layout.offload_embeddings:
        seconds += step.computed_tokens * architecture.hidden_size * 2 / (_HOST_GB_PER_S * 1e9)
    rate = step.real_tokens / seconds
    return TimePrediction(
        tokens_per_second=rate,
        step_seconds=seconds,
        training_hours=lengths.total_tokens * training.epochs / rate / 3600,
        hours_per_10k_examples=_EXAMPLES * lengths.mean / rate / 3600,
    )


def count_flops(architecture: Architecture, training: TrainingSection, layout: Layout, attended_tokens: float) -> float:
    """Floating point operations a token, forward and backward."""
    twice = layout.checkpointed_layers / architecture.layers
    products = architecture.linear_parameters * (4 + 2 * twice) - _count_left_out(architecture, training) * 2 * twice
    # The fused loss computes the logits of a chunk again instead of keeping them.
    head = architecture.vocabulary_size * architecture.hidden_size * 6
    adapters = count_trainable(architecture, training) * (6 + 2 * twice)
    attention = architecture.layers * architecture.query_size * attended_tokens * _ATTENTION_FORWARD
    return products + head + adapters + attention * (_ATTENTION_PASSES + twice)


def _count_left_out(architecture: Architecture, training: TrainingSection) -> int:
    """Weights of the products that are not computed again: see `backends/lean_recompute.py`."""
    lora = training.lora
    is_fused = training.backend == "unsloth" and not lora.use_dora and architecture.family in _LEAN_FAMILIES
    if not is_fused or not set(find_targets(architecture, lora.target_modules, lora.rank)) >= _MLP:
        return 0
    rows, columns = architecture.linears["down_proj"]
    return architecture.layers * rows * columns


def _floor_seconds(architecture: Architecture, training: TrainingSection, layout: Layout, card: Card) -> float:
    """No pass is faster, however few its tokens: the GPU waits for its host."""
    if card is REFERENCE_CPU:
        return 0.0
    floor = architecture.layers * _LAYER_FLOOR_SECONDS + layout.checkpointed_layers * _TWICE_FLOOR_SECONDS
    return floor * (_TRL_FLOORS if training.backend == "trl" else 1.0)


def _pass_seconds(architecture: Architecture, training: TrainingSection, layout: Layout, card: Card) -> float:
    passes = 2 + layout.checkpointed_layers / architecture.layers
    launches = architecture.layers * passes * card.launch_seconds
    if not training.load_in_4bit:
        return launches
    return launches + architecture.linear_parameters * _DEQUANTIZE_BYTES * passes / (card.memory_gb_per_s * 1e9)
