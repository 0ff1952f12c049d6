"""llama.cpp's low-level batch interface: many sequences through the model in one call."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.llama_log import Buffer
from ft_pipeline.evaluation.llama_model import LlamaModel
from ft_pipeline.evaluation.vram import CELL_BLOCK, LARGEST_MICRO_BATCH, round_up_cells

Logits = npt.NDArray[np.float32]

_MAX_BATCH_TOKENS = 2048
# Logits of one batch stay below this many values (256 MiB): a vocabulary of 128k takes 0.5 MiB a token.
_MAX_BATCH_LOGITS = 2**26


@dataclass(frozen=True)
class Piece:
    """Tokens to put behind what a sequence holds already.

    Attributes:
        sequence: Which of the decoder's sequences, from 0.
        tokens: Ids, at least one.
        position: Tokens that the sequence holds before them.
        outputs: Logits are wanted after each of the last `outputs` tokens.
    """

    sequence: int
    tokens: Sequence[int]
    position: int
    outputs: int


class Decoder:
    """A llama.cpp context of several sequences, each with cells of its own (no unified cache).

    With a unified cache every token would look at the cells of all sequences and mask them.

    Args:
        model: The loaded model; it must outlive the decoder.
        sequences: How many there may be at once.
        tokens_per_sequence: Cells of each.
        threads: Threads of one llama.cpp call.
        micro_batch_tokens: Tokens that go through a layer at once.

    Attributes:
        prefix_tokens: Tokens that every sequence begins with; `rewind` to them is cheaper than to none.

    Raises:
        EvaluationError: on entering: llama.cpp has no room for it.
    """

    def __init__(
        self,
        model: LlamaModel,
        *,
        sequences: int,
        tokens_per_sequence: int,
        threads: int,
        micro_batch_tokens: int = LARGEST_MICRO_BATCH,
    ) -> None:
        import llama_cpp

        self._llama: Any = llama_cpp
        self._model = model
        self.sequences = sequences
        self.prefix_tokens = 0
        self._micro_batch_tokens = micro_batch_tokens
        self._tokens_per_sequence = tokens_per_sequence
        self._threads = threads
        self._room = count_batch_tokens(model.vocabulary_size)
        self._batch = _Batch(self._llama, self._room, sequences)

    def __enter__(self) -> Decoder:
        params = self._llama.llama_context_default_params()
        params.n_seq_max = self.sequences
        params.n_ctx = self.sequences * round_up_cells(self._tokens_per_sequence)
        params.kv_unified = False
        params.n_batch = self._room
        params.n_ubatch = min(self._room, self._micro_batch_tokens)
        params.n_threads = params.n_threads_batch = self._threads
        # Answers are rewound to the first wrong token; a sliding window would have dropped what lies before it.
        params.swa_full = True
        on_gpu = self._model.n_gpu_layers
        params.offload_kqv = on_gpu > 0
        # Large batches borrow the GPU's arithmetic for the layers that it does not hold.
        params.op_offload = 0 < on_gpu <= self._model.layers
        params.no_perf = True
        # How far logits of a 4M model move on the CPU when the same tokens are decoded one by one, as a whole or beside
        # others, root mean square: in Q8_0 by 0.05 with flash attention, by 0.002 to 0.02 without; in Q4_K_M by 0.07
        # either way. The less they move, the less an answer depends on what shares its batch. Not measured on a GPU.
        params.flash_attn_type = self._llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        with self._model.log.listen():
            self._context = self._llama.llama_init_from_model(self._model.handle, params)
        if not self._context:
            raise EvaluationError(
                f"llama.cpp must make a context of {self.sequences} x {self._tokens_per_sequence} tokens for "
                f"{self._model.path}; it does not: {self._model.log.explain()}"
            )
        self._memory = self._llama.llama_get_memory(self._context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._llama.llama_free(self._context)

    def decode(self, pieces: Sequence[Piece]) -> Iterator[tuple[int, Logits]]:
        """Put pieces of different sequences through the model.

        Yields:
            The index of a piece and logits of it, shape (k, vocabulary), in order. A piece that is split over two
            batches comes twice. The array is llama.cpp's own memory: use it before asking for the next.

        Raises:
            EvaluationError: llama.cpp fails on a batch.
        """
        owner, tokens, sequences, positions, wanted = _flatten(pieces)
        for start in range(0, len(tokens), self._room):
            part = slice(start, start + self._room)
            self._batch.fill(tokens[part], sequences[part], positions[part], wanted[part])
            self._run_batch()
            owners = owner[part][wanted[part]]
            if owners.size == 0:
                continue
            # Rows stand in the order of the batch's wanted tokens (include/llama.h, llama_get_logits).
            address = self._llama.llama_get_logits(self._context)
            logits = np.ctypeslib.as_array(address, (owners.size, self._model.vocabulary_size))
            borders = np.flatnonzero(np.diff(owners)) + 1
            for first, last in zip([0, *borders], [*borders, owners.size], strict=True):
                yield int(owners[first]), logits[first:last]

    def rewind(self, sequence: int, tokens: int) -> bool:
        """Forget all but the first `tokens` tokens of a sequence; 0 empties it.

        Returns:
            False if the model's memory cannot go back in part (recurrent layers): the sequence is then empty.
        """
        if self._llama.llama_memory_seq_rm(self._memory, sequence, tokens, -1):
            return True
        self._llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return False

    def hold_prefix(self, tokens: Sequence[int]) -> None:
        """Begin every sequence with these tokens; all must be empty.

        They go through the model once and are copied, so that a sequence holds the same numbers whatever shares a batch
        with it.

        Raises:
            EvaluationError: llama.cpp fails on them.
        """
        for _ in self.decode([Piece(0, tokens, 0, 0)]):
            pass
        for sequence in range(1, self.sequences):
            self._llama.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
        self.prefix_tokens = len(tokens)

    def _run_batch(self) -> None:
        with self._model.log.listen():
            status = self._llama.llama_decode(self._context, self._batch.struct)
        if status != 0:
            raise EvaluationError(
                f"llama.cpp must decode every batch; llama_decode gives {status} for {self._model.path}: "
                f"{self._model.log.explain()}"
            )


class _Batch:
    """A `llama_batch` over numpy arrays, so that it is filled without a loop and needs no `llama_batch_free`."""

    def __init__(self, llama: Any, room: int, sequences: int) -> None:
        self._tokens = np.zeros(room, np.int32)
        self._positions = np.zeros(room, np.int32)
        self._sequence_counts = np.ones(room, np.int32)
        self._sequence_ids = np.arange(sequences, dtype=np.int32)
        self._sequence_pointers = np.zeros(room, np.uintp)
        self._wanted = np.zeros(room, np.int8)
        self.struct = llama.llama_batch()
        int_pointer = ctypes.POINTER(ctypes.c_int32)
        self.struct.token = self._tokens.ctypes.data_as(int_pointer)
        self.struct.pos = self._positions.ctypes.data_as(int_pointer)
        self.struct.n_seq_id = self._sequence_counts.ctypes.data_as(int_pointer)
        self.struct.seq_id = self._sequence_pointers.ctypes.data_as(ctypes.POINTER(int_pointer))
        self.struct.logits = self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))

    def fill(
        self,
        tokens: npt.NDArray[np.int64],
        sequences: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        wanted: npt.NDArray[np.bool_],
    ) -> None:
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = positions
        self._sequence_pointers[:count] = self._sequence_ids.ctypes.data + sequences * self._sequence_ids.itemsize
        self._wanted[:count] = wanted
        self.struct.n_tokens = count


def _flatten(pieces: Sequence[Piece]) -> tuple[npt.NDArray[Any], ...]:
    lengths = np.array([len(piece.tokens) for piece in pieces], np.int64)
    owner = np.repeat(np.arange(len(pieces)), lengths)
    offset = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tokens = np.array([token for piece in pieces for token in piece.tokens], np.int64)
    sequences = np.array([piece.sequence for piece in pieces], np.int64)[owner]
    positions = np.array([piece.position for piece in pieces], np.int64)[owner] + offset
    first_wanted = lengths - np.array([piece.outputs for piece in pieces], np.int64)
    return owner, tokens, sequences, positions, offset >= first_wanted[owner]


def count_batch_tokens(vocabulary_size: int) -> int:
    """The most tokens of one call."""
    return max(CELL_BLOCK, min(_MAX_BATCH_TOKENS, _MAX_BATCH_LOGITS // vocabulary_size))


def list_buffers(model: LlamaModel, context_tokens: int) -> list[Buffer]:
    """What the model has taken, and a context as llama.cpp's programs make it for one conversation.

    Raises:
        EvaluationError: llama.cpp has no room for it.
    """
    import llama_cpp

    before = [buffer for buffer in model.log.buffers if buffer.kind == "model"]
    taken = len(model.log.buffers)
    parameters: Any = llama_cpp.llama_context_default_params()
    parameters.n_ctx = context_tokens
    if not model.n_gpu_layers:
        parameters.offload_kqv = parameters.op_offload = False
    parameters.swa_full = False
    with model.log.listen():
        context = llama_cpp.llama_init_from_model(model.handle, parameters)
    if not context:
        raise EvaluationError(
            f"llama.cpp must make a context of {context_tokens} tokens for {model.path}; it does not: "
            f"{model.log.explain()}"
        )
    llama_cpp.llama_free(context)
    return [*before, *model.log.buffers[taken:]]
