"""What a GGUF costs whoever runs it: disk, memory, waiting, and which cards it fits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ft_pipeline.evaluation.gguf_facts import GgufFacts
from ft_pipeline.evaluation.llama_decoder import Decoder, Piece, list_buffers
from ft_pipeline.evaluation.llama_log import Buffer, count_buffers
from ft_pipeline.evaluation.llama_runner import LlamaRunner
from ft_pipeline.evaluation.rows import EvaluationRow
from ft_pipeline.evaluation.vram import CELL_BLOCK, choose_micro_batch, count_vram
from ft_pipeline.finetuning.cards import CARDS, Card

# What memory is measured at, if the model was trained for as much: Ollama's own default for small cards.
MEMORY_CONTEXT_TOKENS = 4096
# Some hundred tokens, so that a busy moment of the machine does not decide; fewer if they take long.
_PROBE_ROWS, _PROBE_TOKENS, _PROBE_SECONDS = 4, 32, 2.0


@dataclass(frozen=True)
class Costs:
    """What a file costs to run, one conversation at a time.

    Attributes:
        size_bytes: Of all its files.
        load_seconds: Until the model is in memory, every tensor checked.
        first_token_seconds: From a prompt to the first token of its answer, the median of some rows.
        tokens_per_second: Of the tokens after it.
        threads: What that was measured on.
        memory_bytes: What llama.cpp takes for one conversation by its own account, on the host and the GPU together:
            weights, cache, outputs, compute buffers. With mmap the weights' share is the file's pages, which the system
            may give back.
        memory_context_tokens: The conversation's length for which that is so.
        vram_bytes: The GPU's part of it; None on the CPU.
    """

    size_bytes: int
    load_seconds: float
    first_token_seconds: float
    tokens_per_second: float
    threads: int
    memory_bytes: int
    memory_context_tokens: int
    vram_bytes: int | None = None


@dataclass(frozen=True)
class CardFit:
    """A card, and the longest context that a file has on it, whole on the GPU; 0: it does not fit."""

    card: Card
    context_tokens: int


def measure_costs(
    runner: LlamaRunner, rows: Sequence[EvaluationRow], context_tokens: int = MEMORY_CONTEXT_TOKENS
) -> Costs:
    """Measure what a loaded file costs.

    Args:
        runner: The file, loaded on what it is scored on.
        rows: The first of them are answered, one at a time.
        context_tokens: Length of the conversation that memory is measured for; the model's own context at most.

    Raises:
        EvaluationError: the template fails on a row, or llama.cpp on a batch.
    """
    first, others, threads = _probe(runner, rows)
    model = runner.model
    context = min(context_tokens, model.context_tokens)
    buffers = list_buffers(model, context)
    return Costs(
        size_bytes=model.facts.size_bytes,
        load_seconds=model.load_seconds,
        first_token_seconds=statistics.median(first),
        tokens_per_second=1 / statistics.median(others),
        threads=threads,
        memory_bytes=_count_memory(buffers, model.facts.size_bytes),
        memory_context_tokens=context,
        vram_bytes=count_buffers(buffers, on_gpu=True) if model.n_gpu_layers else None,
    )


def _count_memory(buffers: Sequence[Buffer], file_bytes: int) -> int:
    """All buffers; weights that were copied to a GPU are counted there and not in the mapped file too."""
    weights = sum(buffer.bytes for buffer in buffers if buffer.kind == "model")
    taken = count_buffers(buffers, on_gpu=False) + count_buffers(buffers, on_gpu=True)
    return taken - max(0, weights - file_bytes)


def _probe(runner: LlamaRunner, rows: Sequence[EvaluationRow]) -> tuple[list[float], list[float], int]:
    """Seconds to the first token of some answers, seconds of each token after it, and the threads."""
    first: list[float] = []
    others: list[float] = []
    decoder, prompts, threads = runner.open_alone(rows[:_PROBE_ROWS], _PROBE_TOKENS)
    with decoder:
        for prompt in prompts:
            if sum(others) < _PROBE_SECONDS:
                seconds = _time_tokens(decoder, prompt)
                first.append(seconds[0])
                others += seconds[1:]
    return first, others, threads


def _time_tokens(decoder: Decoder, prompt: Sequence[int]) -> list[float]:
    """Seconds of each token after a prompt; what ends an answer is decoded on, so that all models do equal work."""
    decoder.rewind(0, 0)
    seconds: list[float] = []
    piece = Piece(0, prompt, 0, 1)
    while len(seconds) < 2 or (len(seconds) <= _PROBE_TOKENS and sum(seconds[1:]) < _PROBE_SECONDS):
        started = time.perf_counter()
        choices = [int(logits[-1].argmax()) for _, logits in decoder.decode([piece])]
        seconds.append(time.perf_counter() - started)
        piece = Piece(0, choices, piece.position + len(piece.tokens), 1)
    return seconds


def cards_that_fit(facts: GgufFacts, cards: Mapping[str, Card] = CARDS) -> list[CardFit]:
    """The longest context on each card, whole on the GPU, with a 16-bit cache and flash attention.

    What llama.cpp and Ollama do by themselves: output layer, decoder layers, cache and a compute buffer for 512 tokens
    on the card (`count_vram`), the input embeddings in the host's memory. No screen is counted. A sliding window is not
    either, so that a model with one may have more. Two cards of a kind are left out.
    """
    return [CardFit(card, _find_context(facts, card.usable_bytes)) for card in cards.values() if card.count == 1]


def _find_context(facts: GgufFacts, room_bytes: int) -> int:
    """The longest multiple of 256 tokens, or the model's own context, that fits; the need grows with the context."""
    fitting, most = 0, -(-facts.context_tokens // CELL_BLOCK)
    while fitting < most:
        middle = (fitting + most + 1) // 2
        if _count_whole(facts, middle * CELL_BLOCK) <= room_bytes:
            fitting = middle
        else:
            most = middle - 1
    return min(fitting * CELL_BLOCK, facts.context_tokens)


def _count_whole(facts: GgufFacts, context_tokens: int) -> int:
    micro_batch = choose_micro_batch(facts, context_tokens)
    return count_vram(facts, len(facts.layers) + 1, 1, context_tokens, micro_batch, flash_attention=True)
