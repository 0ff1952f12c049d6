"""How a training goal is reached on this device: micro-batch, accumulation, and whether it fits.

The prediction of memory is a first one: it counts parts exactly where shapes give them and is generous elsewhere, so
that a card that is far too small is refused before it works for an hour. Sources: NF4 with double quantization takes
4.127 bits a weight (Dettmers et al. 2023, arXiv:2305.14314, section 3).
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

from ft_pipeline.base_model import read_config
from ft_pipeline.errors import BaseModelError, MemoryBudgetError
from ft_pipeline.finetuning.device import Device
from ft_pipeline.recipe import TrainingSection

_NF4_BYTES = 4.127 / 8
_CUDA_RUNTIME_BYTES = 850 << 20  # the context, and buffers of a size that hangs on no plan
_LIBRARIES_RSS_BYTES = 1200 << 20
_MICRO_BATCH_TOKENS = 4096
_MAX_HEADER_BYTES = 100 << 20


@dataclass(frozen=True)
class BatchPlan:
    """One optimizer step is `micro_batch_rows * accumulation_steps` rows."""

    micro_batch_rows: int
    accumulation_steps: int


@dataclass(frozen=True)
class MemoryPlan:
    """Predicted peak bytes by part."""

    weights_bytes: int
    adapter_bytes: int
    activations_bytes: int
    logits_bytes: int
    runtime_bytes: int

    @property
    def total_bytes(self) -> int:
        """Sum of the parts."""
        return sum(asdict(self).values())

    def describe(self) -> str:
        """All parts in GiB, for people."""
        parts = ", ".join(f"{name.removesuffix('_bytes')} {value / 2**30:.2f}" for name, value in asdict(self).items())
        return f"{self.total_bytes / 2**30:.2f} GiB ({parts})"


def plan_batch(effective_batch_tokens: int, mean_row_tokens: float, max_row_tokens: int) -> BatchPlan:
    """Rows of a micro-batch and accumulation steps whose product is nearest to the effective batch.

    Args:
        effective_batch_tokens: The recipe's tokens per optimizer step.
        mean_row_tokens: Mean tokens of a training row.
        max_row_tokens: Tokens of the longest row: a micro-batch of such rows must stay within 4,096 tokens.
    """
    rows = max(1, round(effective_batch_tokens / mean_row_tokens))
    most = max(1, min(rows, _MICRO_BATCH_TOKENS // max_row_tokens))
    steps = -(-rows // most)
    return BatchPlan(-(-rows // steps), steps)


def predict_memory(
    base: Path, training: TrainingSection, batch: BatchPlan, max_row_tokens: int, device: Device
) -> MemoryPlan:
    """Peak memory of training, from the base's config and the shapes in its safetensors headers; no weight is read.

    Raises:
        BaseModelError: the folder holds no safetensors or no config.
    """
    config = read_config(base)
    shapes = read_shapes(base)
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    linear = {name: s for name, s in matrices.items() if "embed" not in name and "lm_head" not in name}
    linear_count = sum(rows * columns for rows, columns in linear.values())
    other_count = sum(_count(shape) for shape in shapes.values()) - linear_count
    targeted = [s for name, s in linear.items() if name.split(".")[-2] in training.lora.target_modules]
    adapter_count = training.lora.rank * sum(rows + columns for rows, columns in targeted)
    tokens = batch.micro_batch_rows * max_row_tokens
    hidden = int(config["hidden_size"])
    # fp32 weights and gradients, and Adam's two moments in 32 or 8 bits
    adapter_bytes = adapter_count * (8 + (2 if training.optimizer == "adamw_8bit" else 8))
    # On a GPU Unsloth moves checkpoints to the host and computes the loss in chunks: one layer is live. 24 bf16 values
    # a hidden unit were measured (an 8B on an H200, 4,096 against 16,384 tokens a micro-batch: 6.78 and 9.04 GiB). On
    # the CPU all layers stay in fp32, 17 values a hidden unit (Korthikanti et al. 2022, arXiv:2205.05198, eq. 1).
    per_token = hidden * 2 * 24 if device.is_gpu else hidden * 4 * 17 * int(config["num_hidden_layers"])
    logits_per_token = 0 if device.is_gpu else int(config["vocab_size"]) * 4
    return MemoryPlan(
        weights_bytes=int(linear_count * (_NF4_BYTES if training.load_in_4bit else 2) + other_count * 2),
        adapter_bytes=adapter_bytes,
        activations_bytes=tokens * per_token,
        logits_bytes=tokens * logits_per_token,
        runtime_bytes=_CUDA_RUNTIME_BYTES if device.is_gpu else _LIBRARIES_RSS_BYTES,
    )


def require_memory(plan: MemoryPlan, device: Device, limit_bytes: int | None) -> None:
    """Raise `MemoryBudgetError` unless the plan fits what is free and what is allowed."""
    budget = min(device.free_bytes, limit_bytes or device.free_bytes)
    if plan.total_bytes <= budget:
        return
    limited = limit_bytes is not None and limit_bytes <= device.free_bytes
    source = "allowed by gpu.memory_limit_gib" if limited else f"free of {device.total_bytes / 2**30:.2f}"
    raise MemoryBudgetError(
        f"training must fit the device: it needs about {plan.describe()}, {device.label} has {budget / 2**30:.2f} GiB "
        f"{source}: {(plan.total_bytes - budget) / 2**30:.2f} GiB short. Lower dataset.max_row_tokens or "
        "training.lora.rank, free the device, or take a smaller base."
    )


def read_shapes(base: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a safetensors folder, from the files' headers.

    Raises:
        BaseModelError: there is no safetensors file, or a header does not read.
    """
    files = sorted(base.glob("*.safetensors"))
    if not files:
        raise BaseModelError(f"a base model must be safetensors; {base} holds none. Pickled weights are not loaded.")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            with file.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                header = json.loads(stream.read(min(length, _MAX_HEADER_BYTES)))
        except (OSError, ValueError, struct.error) as err:
            raise BaseModelError(f"{file} is no whole safetensors file: {err}. Fetch it again.") from err
        shapes |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    return shapes


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
