"""How much of a GGUF goes onto a GPU, and whose turn it is there.

llama.cpp puts the output layer first, then the decoder layers from the last to the first (`load_tensors` in
src/llama-model.cpp); a layer's cache of keys and values goes with it. The input embeddings stay in the host's memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.errors import EnvironmentMismatch
from ft_pipeline.evaluation.gguf_facts import GgufFacts, read_gguf_facts
from ft_pipeline.evaluation.vram import LARGEST_MICRO_BATCH, choose_micro_batch, count_vram, round_up_cells
from ft_pipeline.finetuning.device import CPU, Device, GpuSettings, find_device, find_settled
from ft_pipeline.finetuning.lease import hold_device

# Sequences that a plan keeps before it puts more layers onto the card: a step reads all weights once, whatever the
# number of sequences, so below this each one less costs as much as a layer or more.
_KEPT_SEQUENCES = 8
# Prompt and answer that layers are planned for, before the rows are known.
EXPECTED_TOKENS = 2048
# Of each of several models that read the same batches.
_TOGETHER_SEQUENCES = 16


@dataclass(frozen=True)
class Offload:
    """What goes onto the GPU.

    Attributes:
        n_gpu_layers: llama.cpp's count, in which the output layer is one; 0: the CPU alone.
        sequences: Conversations that are decoded together.
        micro_batch_tokens: Tokens that go through a layer at once.
        vram_bytes: What all that takes by the plan.
    """

    n_gpu_layers: int
    sequences: int
    micro_batch_tokens: int
    vram_bytes: int


def plan_offload(
    facts: GgufFacts, *, free_vram_bytes: int, sequences: int, tokens_per_sequence: int, batch_tokens: int
) -> Offload:
    """As many layers as fit, then as many sequences as fit beside them.

    Layers come first, because one that stays behind is read from the host's memory, which is slower. But room is
    kept for eight sequences, or as many as have caches of a quarter of the weights together, for a step reads the
    weights once for all sequences.

    Args:
        facts: Of the file.
        free_vram_bytes: What the card has for us.
        sequences: The most that are wanted at once.
        tokens_per_sequence: Longest prompt and answer together; of it, the model's context at most is counted.
        batch_tokens: The most tokens of one call.
    """
    tokens_per_sequence = min(tokens_per_sequence, facts.context_tokens or tokens_per_sequence)
    micro_batch = choose_micro_batch(facts, batch_tokens)
    kept = min(sequences, _keep_sequences(facts, tokens_per_sequence))
    most = len(facts.layers) + 1
    layers = next(
        (
            number
            for number in range(most, 0, -1)
            if count_vram(facts, number, kept, tokens_per_sequence, micro_batch) <= free_vram_bytes
        ),
        0,
    )
    return plan_sequences(
        facts,
        layers,
        free_vram_bytes=free_vram_bytes,
        sequences=sequences,
        tokens_per_sequence=tokens_per_sequence,
        batch_tokens=batch_tokens,
    )


def plan_together(
    files: Sequence[Path], device: ScoringDevice, tokens_per_sequence: int = EXPECTED_TOKENS
) -> list[int]:
    """llama.cpp's counts of layers for models that are in memory at once; the first ones get what they need first.

    Args:
        files: The GGUFs.
        device: What they run on.
        tokens_per_sequence: The longest text that they read.
    """
    free, counts = device.free_bytes, []
    for file in files:
        if not device.is_gpu:
            counts.append(0)
            continue
        facts = read_gguf_facts(file)
        planned = plan_offload(
            facts,
            free_vram_bytes=free,
            sequences=_TOGETHER_SEQUENCES,
            tokens_per_sequence=tokens_per_sequence,
            batch_tokens=LARGEST_MICRO_BATCH,
        )
        counts.append(planned.n_gpu_layers)
        free -= planned.vram_bytes
    return counts


def plan_sequences(
    facts: GgufFacts,
    n_gpu_layers: int,
    *,
    free_vram_bytes: int,
    sequences: int,
    tokens_per_sequence: int,
    batch_tokens: int,
) -> Offload:
    """As many sequences as fit beside layers that are on the card already, one at least.

    Args:
        facts: Of the file.
        n_gpu_layers: llama.cpp's count.
        free_vram_bytes: What the card has for us, these layers included.
        sequences: The most that are wanted at once.
        tokens_per_sequence: Longest prompt and answer together.
        batch_tokens: The most tokens of one call.
    """
    micro_batch = choose_micro_batch(facts, batch_tokens)
    if n_gpu_layers == 0:
        return Offload(0, sequences, micro_batch, vram_bytes=0)

    def count(number: int) -> int:
        return count_vram(facts, n_gpu_layers, number, tokens_per_sequence, micro_batch)

    fitting = next((number for number in range(sequences, 1, -1) if count(number) <= free_vram_bytes), 1)
    return Offload(n_gpu_layers, fitting, micro_batch, count(fitting))


def _keep_sequences(facts: GgufFacts, tokens_per_sequence: int) -> int:
    weights = facts.output_bytes + sum(layer.weight_bytes for layer in facts.layers)
    cache = facts.count_cache(round_up_cells(tokens_per_sequence))
    return max(1, min(_KEPT_SEQUENCES, weights // 4 // max(1, cache)))


@dataclass(frozen=True)
class ScoringDevice:
    """What models are scored on.

    Attributes:
        name: `cpu`, or the GPU's UUID.
        label: What people call it.
        free_bytes: Of its memory, what models may take.
    """

    name: str
    label: str
    free_bytes: int

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU, held by a lease."""
        return self.name != CPU


@contextmanager
def open_scoring_device(gpu: GpuSettings, *, holder: str, tell: Callable[[str], None]) -> Iterator[ScoringDevice]:
    """Find the device to score on and hold it while the block runs; the CPU is held by nobody.

    To be entered before this process has llama.cpp look for devices: which GPU it sees is settled then.

    Args:
        gpu: What is wanted, and how it may be used.
        holder: Who we are, for those who wait.
        tell: Hears what is unusual, and how long we wait.

    Raises:
        ResourceError: the GPU that was asked for is not there, or the driver fails.
        LeaseTimeout: the GPU was not free in time.
    """
    device = _find(gpu.device, tell)
    with _visible_gpu(device.name if device.is_gpu else ""):
        if device.is_gpu and not _supports_gpu():
            tell(
                f"scoring runs on the CPU: the installed llama.cpp cannot use {device.label}. Install the CUDA toolkit "
                "(nvcc) and run make clean setup"
            )
            device = find_device(CPU)
        if not device.is_gpu:
            yield ScoringDevice(CPU, device.label, device.free_bytes)
            return
        with hold_device(
            device.name, lock_dir=gpu.lock_dir, timeout_seconds=gpu.wait_seconds, holder=holder, tell=tell
        ):
            device = find_settled(device)
            limit = device.free_bytes if gpu.vram_limit_bytes is None else gpu.vram_limit_bytes
            yield ScoringDevice(device.name, device.label, min(device.free_bytes, limit))


def _find(wanted: str, tell: Callable[[str], None]) -> Device:
    try:
        return find_device(wanted)
    except EnvironmentMismatch as err:
        # Of torch, which scoring has no use for; what is wrong is told, and the figures are the same on the CPU.
        tell(f"scoring runs on the CPU: {err}")
        return find_device(CPU)


@contextmanager
def _visible_gpu(name: str) -> Iterator[None]:
    """The one GPU that this process and its children see; empty: none."""
    former = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = name
    try:
        yield
    finally:
        if former is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = former


def _supports_gpu() -> bool:
    import llama_cpp

    return bool(llama_cpp.llama_supports_gpu_offload())
