"""How conversations are spread over a machine's cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ft_pipeline.evaluation.gguf_facts import GgufFacts
from ft_pipeline.evaluation.llama_decoder import count_batch_tokens
from ft_pipeline.evaluation.vram import LARGEST_MICRO_BATCH, round_up_cells

_MAX_SEQUENCES = 16
# Of all decoders at once.
_MAX_CACHE_BYTES = 2**30
_MAX_LOGITS_BYTES = 2**31
_LOGIT_BYTES = 4
# Rows that one decoder works off. Which rows share a batch depends on no machine and no clock.
_SHARD_ROWS = 32
# Few rows of a small model are shared out among this many cores, which cannot work together on one batch: 4M weights
# lose some 3% of a core by batches of 16, and 6% by batches of 8.
_SMALL_SHARDS, _LEAST_SHARD_ROWS = 8, 8
RowT = TypeVar("RowT")


@dataclass(frozen=True)
class DecodingPlan:
    """How rows are spread over cores.

    Threads of one call wait for each other after every matrix. So each core gets a decoder and rows of its own, as far
    as rows and memory go; only where there are fewer decoders than cores do several threads work for one, and never for
    a small model: 4M weights took two threads on two busy cores four times as long as one.
    """

    decoders: int
    sequences: int
    tokens_per_sequence: int
    threads: int
    micro_batch_tokens: int = LARGEST_MICRO_BATCH


def plan_decoding(
    models: Sequence[GgufFacts],
    *,
    tokens_per_sequence: int,
    outputs_per_sequence: int,
    shards: int,
    cores: int,
    is_small: bool,
) -> DecodingPlan:
    """Decoders, sequences of each and threads of each on the CPU.

    Args:
        models: Those that read the same batches at the same time, of one vocabulary.
        tokens_per_sequence: Longest prompt and answer together.
        outputs_per_sequence: The most tokens of one sequence after which logits are wanted at once.
        shards: Parts of the work, each for one decoder at a time; one at least.
        cores: Cores that this process may use.
        is_small: All models are (`LlamaModel.is_small`).
    """
    cells = round_up_cells(tokens_per_sequence)
    affordable = max(1, _MAX_CACHE_BYTES // max(1, sum(facts.count_cache(cells) for facts in models)))
    sequences = min(_MAX_SEQUENCES, affordable)
    logits = len(models) * _count_logits(max(1, models[0].vocabulary), sequences * outputs_per_sequence)
    decoders = max(1, min(cores, shards, affordable // sequences, _MAX_LOGITS_BYTES // (logits * _LOGIT_BYTES)))
    threads = 1 if is_small else max(1, cores // decoders)
    return DecodingPlan(decoders, sequences, tokens_per_sequence, threads)


def cut_shards(rows: Sequence[RowT], *, is_small: bool) -> list[Sequence[RowT]]:
    """Rows that one decoder works off, for each time that one does."""
    size = _SHARD_ROWS
    if is_small:
        size = min(size, max(_LEAST_SHARD_ROWS, -(-len(rows) // _SMALL_SHARDS)))
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _count_logits(vocabulary: int, outputs: int) -> int:
    """Logits in one decoder's memory: a micro-batch's in the compute buffer, a batch's in what is handed out."""
    room = count_batch_tokens(vocabulary)
    return vocabulary * (min(LARGEST_MICRO_BATCH, room) + min(room, max(1, outputs)))
