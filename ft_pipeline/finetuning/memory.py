"""Peak memory of a training, part by part, from shapes alone.

What shapes give exactly (weights, adapter, optimizer) is counted; what hangs on kernels (activations, loss, workspaces)
is linear in a few coefficients with a physical meaning, which stand in one place with where each comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

from ft_pipeline.finetuning.architecture import Architecture, count_saved_parameters, find_targets
from ft_pipeline.recipe import TrainingSection

DeviceKind = Literal["gpu", "cpu"]
_GIB = 2**30
_MIB = 2**20


@dataclass(frozen=True)
class ActivationCost:
    """16-bit values a token that one decoder layer needs, in multiples of its widths.

    `kept_*`: kept for backward. `padded_query`: kept besides if rows are padded. `live_*`: on top of that while the
    layer's own backward runs. `checkpoint_hidden`: what stays on the card of a layer that is computed twice.
    """

    kept_hidden: float
    kept_query: float
    kept_key: float
    kept_intermediate: float
    padded_query: float
    live_hidden: float
    live_intermediate: float
    checkpoint_hidden: float


# Kept, counted in unsloth/kernels (rms_layernorm, fast_lora, rope_embedding): what both norms read and give (4 hidden),
# queries and attention's output (2), keys and values (2), gate and up (2); of padded rows the output once more, as it
# is laid out anew. Micro-batches of 2,048 to 16,520 tokens with 8 to 32 layers kept (H200, 8B) bear that out: 13.28 to
# 61.22 GiB. Live is fitted to 2,048 to 16,384 tokens with every layer computed twice (6.38 to 8.86 GiB). Checkpoints
# lie in the host's memory.
_UNSLOTH = ActivationCost(
    kept_hidden=4.0,
    kept_query=2.0,
    kept_key=2.0,
    kept_intermediate=2.0,
    padded_query=1.0,
    live_hidden=2.5,
    live_intermediate=2.0,
    checkpoint_hidden=0.0,
)
# transformers' own modules under autocast keep fp32 twins of what the norms and the adapters read, and the activation
# function's input and output. Counted, and checked against one row of an H200 only (11.79 GiB).
_TRL = ActivationCost(
    kept_hidden=16.0,
    kept_query=4.0,
    kept_key=4.0,
    kept_intermediate=5.0,
    padded_query=0.0,
    live_hidden=8.0,
    live_intermediate=4.0,
    checkpoint_hidden=1.0,
)
_ACTIVATIONS: Mapping[str, ActivationCost] = {"unsloth": _UNSLOTH, "trl": _TRL}


@dataclass(frozen=True)
class Coefficients:
    """Everything else that is not a shape.

    Attributes:
        nf4_bytes: 4 bits a weight. Source: Dettmers et al. 2023, arXiv:2305.14314.
        nf4_constant_bytes: 0.127 bits a weight with double quantization; section 3 there.
        adapter_bytes: Trainable weights are fp32, and so are their gradients.
        adam8_bytes: Two moments of one byte, and an fp32 maximum of each block of 256.
        logit_chunk_rows, logit_chunk_share: The loss goes through the output layer a chunk of rows at a time: an
            eighth of all, 512 at least. Source: unsloth_zoo/fused_losses/chunked_logprob.py, whose cap of 2 GiB at 8
            bytes is `logit_chunk_cap_bytes` and `logit_cap_bytes_each`. TRL's own chunks are taken for the same.
        logit_bytes: bf16 logits of a chunk and their gradient.
        loss_hidden: 16-bit values a token beside the chunk: hidden states, their norm and gradient.
        offload_bytes: Buffers that input embeddings from the host's memory come through. Fitted: 5.99 GiB, 8B, 4,096
            tokens.
        workspace_bytes: cuBLAS on Hopper: 32 MiB (torch's `CUBLAS_WORKSPACE_CONFIG` default).
        context_bytes: The CUDA context with its kernels, outside of torch's allocator: 0.71 GiB on an H200 once torch
            is loaded, and what the kernels compiled while training add.
        fragmentation_share: Of what stays all the time: rounding, holes that loading leaves. Fitted: 6.24 GiB at 8B and
            1.48 at 1B with micro-batches of some hundred tokens.
        cpu_hidden: fp32 values a token, layer and hidden unit that stay on the CPU. Source: Korthikanti et al. 2022,
            arXiv:2205.05198, equation 1.
        cpu_libraries_bytes: Resident set of the imported libraries.
    """

    nf4_bytes: float = 4 / 8
    nf4_constant_bytes: float = 0.127 / 8
    adapter_bytes: int = 4
    adam8_bytes: float = 2 * (1 + 4 / 256)
    adam32_bytes: int = 8
    logit_chunk_rows: int = 512
    logit_chunk_share: float = 1 / 8
    logit_chunk_cap_bytes: int = 2 * _GIB
    logit_cap_bytes_each: int = 8
    logit_bytes: int = 4
    loss_hidden: float = 3.0
    offload_bytes: int = 256 * _MIB
    workspace_bytes: int = 32 * _MIB
    context_bytes: int = 1024 * _MIB
    fragmentation_share: float = 0.03
    cpu_hidden: float = 17.0
    cpu_libraries_bytes: int = 1200 * _MIB


COEFFICIENTS = Coefficients()


@dataclass(frozen=True)
class Layout:
    """How rows go through the model on this device.

    Attributes:
        micro_batch_rows: A micro-batch holds at most `micro_batch_rows * row_tokens` tokens, padding counted.
        row_tokens: Tokens of one row of it; no row of the data is longer.
        packing: Rows lie end to end; else each is padded to the longest of its micro-batch.
        checkpointed_layers: Decoder layers that are computed twice instead of keeping what they computed.
        offload_embeddings: The input embeddings lie in the host's memory.
        optimizer: adamw_torch, adamw_8bit or paged_adamw_8bit.
    """

    micro_batch_rows: int
    row_tokens: int
    packing: bool
    checkpointed_layers: int
    offload_embeddings: bool
    optimizer: str

    @property
    def micro_batch_tokens(self) -> int:
        """Most tokens that go through the model at once."""
        return self.micro_batch_rows * self.row_tokens


@dataclass(frozen=True)
class MemoryPrediction:
    """Bytes at the peak, by part.

    Attributes:
        activations_bytes: What all layers keep, and what one layer's backward needs beside.
        logits_bytes: What the loss needs beyond that one layer: they are never there at the same time.
        runtime_bytes: Workspaces and buffers of torch's allocator.
        context_bytes: The CUDA context; on the CPU the libraries.
    """

    weights_bytes: int
    quantization_constants_bytes: int
    adapters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    logits_bytes: int
    runtime_bytes: int
    fragmentation_bytes: int
    context_bytes: int

    @property
    def total_bytes(self) -> int:
        """What must be free on the device."""
        return sum(asdict(self).values())

    @property
    def reserved_bytes(self) -> int:
        """What torch's allocator reserves: all but the context."""
        return self.total_bytes - self.context_bytes

    def by_part_gib(self) -> dict[str, float]:
        """GiB by the part's name."""
        return {name.removesuffix("_bytes"): value / _GIB for name, value in asdict(self).items()}

    def describe(self) -> str:
        """All parts in GiB, for people."""
        parts = ", ".join(f"{name.replace('_', ' ')} {gib:.2f}" for name, gib in self.by_part_gib().items() if gib)
        return f"{self.total_bytes / _GIB:.2f} GiB ({parts})"


def predict_memory(
    architecture: Architecture,
    training: TrainingSection,
    layout: Layout,
    device_kind: DeviceKind,
    *,
    accumulates: bool = True,
) -> MemoryPrediction:
    """Peak memory of training with this layout.

    Args:
        architecture: The base's.
        training: The recipe's goal.
        layout: How rows go through the model.
        device_kind: `gpu` or `cpu`.
        accumulates: A step has several micro-batches, so gradients are there from the second one's beginning. Else they
            come while backward frees what layers have kept.

    Raises:
        TrainingError: the recipe names modules that the model lacks, or a rank above its hidden size.
    """
    is_gpu = device_kind == "gpu"
    weights, constants = _count_weights(architecture, training, layout, is_gpu)
    adapters, optimizer = _count_trainable(architecture, training, layout, is_gpu)
    activations, logits = _count_activations(architecture, training, layout, is_gpu)
    static = weights + constants + 2 * adapters + optimizer
    gradients = adapters
    if not accumulates and layout.checkpointed_layers < architecture.layers:
        # The peak is at the beginning of backward, or, where little is kept, at its end.
        all_twice = replace(layout, checkpointed_layers=architecture.layers)
        at_end = _count_activations(architecture, training, all_twice, is_gpu)[0] + adapters
        activations, gradients = (activations, 0.0) if activations > at_end else (at_end - adapters, adapters)
    return MemoryPrediction(
        weights_bytes=round(weights),
        quantization_constants_bytes=round(constants),
        adapters_bytes=round(adapters),
        gradients_bytes=round(gradients),
        optimizer_bytes=round(optimizer),
        activations_bytes=round(activations),
        logits_bytes=round(logits),
        runtime_bytes=round(_count_runtime(architecture, training, layout)) if is_gpu else 0,
        fragmentation_bytes=round(static * COEFFICIENTS.fragmentation_share) if is_gpu else 0,
        context_bytes=COEFFICIENTS.context_bytes if is_gpu else COEFFICIENTS.cpu_libraries_bytes,
    )


def _count_weights(
    architecture: Architecture, training: TrainingSection, layout: Layout, is_gpu: bool
) -> tuple[float, float]:
    """Weights, and the constants of their quantization. What is not quantized is 16 bits on a GPU and 32 on the CPU."""
    wide = 2 if is_gpu else 4
    quantized = architecture.linear_parameters if training.load_in_4bit else 0
    others = architecture.total_parameters - quantized
    if layout.offload_embeddings and is_gpu and can_offload_embeddings(architecture, training):
        others -= architecture.vocabulary_size * architecture.hidden_size
    return quantized * COEFFICIENTS.nf4_bytes + others * wide, quantized * COEFFICIENTS.nf4_constant_bytes


def can_offload_embeddings(architecture: Architecture, training: TrainingSection) -> bool:
    """Whether the input embeddings can leave the card: neither shared with the output layer nor trained."""
    return not architecture.tied_embeddings and "embed_tokens" not in training.lora.modules_to_save


def count_trainable(architecture: Architecture, training: TrainingSection) -> int:
    """Weights that are trained: the adapter's, DoRA's magnitudes, and modules that are trained whole."""
    lora = training.lora
    targets = find_targets(architecture, lora.target_modules, lora.rank)
    per_layer = sum(lora.rank * (rows + columns) + (rows if lora.use_dora else 0) for rows, columns in targets.values())
    return architecture.layers * per_layer + count_saved_parameters(architecture, lora.modules_to_save)


def _count_trainable(
    architecture: Architecture, training: TrainingSection, layout: Layout, is_gpu: bool
) -> tuple[float, float]:
    """Adapter and optimizer; gradients are as large as the adapter."""
    count = count_trainable(architecture, training)
    each: float = COEFFICIENTS.adam32_bytes if layout.optimizer == "adamw_torch" else COEFFICIENTS.adam8_bytes
    if layout.optimizer == "paged_adamw_8bit" and is_gpu:
        each = 0  # in the host's memory, which the driver pages in
    return count * COEFFICIENTS.adapter_bytes, count * each


def _count_activations(
    architecture: Architecture, training: TrainingSection, layout: Layout, is_gpu: bool
) -> tuple[float, float]:
    """Bytes of activations, and what the loss needs beyond the live layer."""
    tokens, hidden = layout.micro_batch_tokens, architecture.hidden_size
    if not is_gpu:
        layers = max(1, architecture.layers - layout.checkpointed_layers)
        kept = tokens * hidden * COEFFICIENTS.cpu_hidden * 4 * layers
        return kept, tokens * architecture.vocabulary_size * 4
    cost = _ACTIVATIONS[training.backend]
    kept_a_layer = 2 * tokens * _count_kept(architecture, cost, layout.packing)
    live = 2 * tokens * (cost.live_hidden * hidden + cost.live_intermediate * architecture.intermediate_size)
    if layout.checkpointed_layers == architecture.layers:
        # Else the last layer keeps what it computed (Unsloth's `skip_checkpointing`), and it comes first in backward.
        live += kept_a_layer
    kept = (architecture.layers - layout.checkpointed_layers) * kept_a_layer
    kept += layout.checkpointed_layers * cost.checkpoint_hidden * 2 * tokens * hidden
    loss = _count_loss(architecture, tokens)
    return kept + live, max(0.0, loss - live)


def _count_kept(architecture: Architecture, cost: ActivationCost, is_packed: bool) -> float:
    return (
        cost.kept_hidden * architecture.hidden_size
        + (cost.kept_query + (0 if is_packed else cost.padded_query)) * architecture.query_size
        + cost.kept_key * architecture.key_size
        + cost.kept_intermediate * architecture.intermediate_size
    )


def _count_loss(architecture: Architecture, tokens: int) -> float:
    vocabulary = architecture.vocabulary_size
    most = COEFFICIENTS.logit_chunk_cap_bytes / (vocabulary * COEFFICIENTS.logit_cap_bytes_each)
    rows = min(tokens, most, max(COEFFICIENTS.logit_chunk_rows, tokens * COEFFICIENTS.logit_chunk_share))
    states = 2 * tokens * COEFFICIENTS.loss_hidden * architecture.hidden_size
    return rows * vocabulary * COEFFICIENTS.logit_bytes + states


def _count_runtime(architecture: Architecture, training: TrainingSection, layout: Layout) -> float:
    """Workspaces, and the buffer that the largest matrix is dequantized into (DoRA: and its update, in fp32)."""
    largest = max(rows * columns for rows, columns in architecture.linears.values())
    dequantized = largest * 2 if training.load_in_4bit else 0
    offload = COEFFICIENTS.offload_bytes if layout.offload_embeddings else 0
    return COEFFICIENTS.workspace_bytes + dequantized + offload + (2 * largest * 4 if training.lora.use_dora else 0)
