"""Answers of a GGUF and the likelihood of the answers that were wanted, many rows at once."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ft_pipeline.evaluation.chat import ChatEncoder, EncodedChat
from ft_pipeline.evaluation.greedy import Answer, AnswerLimits, answer_chats
from ft_pipeline.evaluation.llama_decoder import CELL_BLOCK, Decoder, Piece
from ft_pipeline.evaluation.llama_model import LlamaModel
from ft_pipeline.evaluation.rows import EvaluationRow, ScoredRow

_MAX_SEQUENCES = 16
# Rows that one decoder works off. Fixed, so that which rows share a batch depends on no machine and no clock.
_SHARD_ROWS = 32
_MAX_CACHE_BYTES = 2**30
_PROBE_ROWS, _PROBE_TOKENS, _PROBE_SECONDS = 4, 32, 2.0


@dataclass(frozen=True)
class DecodingPlan:
    """How rows are spread over cores.

    A small model gains nothing from two threads in one call, which wait for each other after every matrix, and loses
    much on a busy machine. So each core gets a decoder and rows of its own, as far as the caches fit in 1 GiB; only a
    model whose cache fills that with one decoder's sequences gets all threads for that one.
    """

    decoders: int
    sequences: int
    tokens_per_sequence: int
    threads: int


@dataclass(frozen=True)
class Speed:
    """Tokens per second of one conversation at a time, on this many threads."""

    tokens_per_second: float
    threads: int


def plan_decoding(cache_bytes_per_token: int, tokens_per_sequence: int, cores: int) -> DecodingPlan:
    """Decoders, sequences of each and threads of each for a model on a machine.

    Args:
        cache_bytes_per_token: What one token takes in the model's cache.
        tokens_per_sequence: Longest prompt and answer together.
        cores: Cores that this process may use.
    """
    cells = -(-tokens_per_sequence // CELL_BLOCK) * CELL_BLOCK
    affordable = max(1, _MAX_CACHE_BYTES // max(1, cells * cache_bytes_per_token))
    sequences = min(_MAX_SEQUENCES, affordable)
    decoders = max(1, min(cores, affordable // sequences))
    return DecodingPlan(decoders, sequences, tokens_per_sequence, max(1, cores // decoders))


class LlamaRunner:
    """Puts rows to one GGUF, for as long as the context lasts.

    Args:
        gguf: The file.
        cores: Cores to use; all that the process may use by default.

    Raises:
        EvaluationError: on entering: the file does not load, or carries no usable chat template.
    """

    def __init__(self, gguf: Path, *, cores: int | None = None) -> None:
        self.model = LlamaModel(gguf)
        self._cores = cores or len(os.sched_getaffinity(0))

    def __enter__(self) -> LlamaRunner:
        self.model.__enter__()
        try:
            self._encoder = ChatEncoder(self.model)
        except BaseException:
            self.model.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.model.__exit__(kind, error, trace)

    def score(
        self, rows: Sequence[EvaluationRow], max_new_tokens: int, on_rows: Callable[[int], None] = lambda _count: None
    ) -> list[ScoredRow]:
        """Greedy answer to each row, and the log-likelihood of its reference.

        A row that is longer than the model's context is not put to it: it comes back with a fault.

        Args:
            rows: What to ask.
            max_new_tokens: Tokens after which an answer is cut.
            on_rows: Called with the number of rows that were finished since its last call.

        Raises:
            EvaluationError: the template fails on a row, or llama.cpp on a batch.
        """
        chats = [self._encoder.encode(row) for row in rows]
        faults = [_find_fault(chat, self.model.context_tokens) for chat in chats]
        fitting = [chat for chat, fault in zip(chats, faults, strict=True) if fault is None]
        answers = iter(self._answer(fitting, max_new_tokens, on_rows))
        if len(fitting) < len(rows):
            on_rows(len(rows) - len(fitting))
        return [
            self._to_scored_row(row, chat, next(answers))
            if fault is None
            else ScoredRow(row, "", 0, stopped=False, logprob=0.0, reference_tokens=0, fault=fault)
            for row, chat, fault in zip(rows, chats, faults, strict=True)
        ]

    def measure_speed(self, rows: Sequence[EvaluationRow]) -> Speed:
        """Speed of one conversation at a time, prompts not counted, on the threads that scoring gives a decoder.

        The median over some hundred tokens, so that a busy moment of the machine does not decide; fewer if they take
        more than two seconds.
        """
        chats = [self._encoder.encode(row) for row in rows[:_PROBE_ROWS]]
        prompts = [chat.prompt[-(self.model.context_tokens - _PROBE_TOKENS) :] for chat in chats]
        plan = self._plan(max(len(prompt) for prompt in prompts) + _PROBE_TOKENS)
        seconds: list[float] = []
        with Decoder(
            self.model, sequences=1, tokens_per_sequence=plan.tokens_per_sequence, threads=plan.threads
        ) as decoder:
            for prompt in prompts:
                if sum(seconds) < _PROBE_SECONDS:
                    seconds += _time_tokens(decoder, prompt, _PROBE_SECONDS)
        return Speed(1 / statistics.median(seconds), plan.threads)

    def _plan(self, tokens_per_sequence: int) -> DecodingPlan:
        return plan_decoding(
            self.model.cache_bytes_per_token, min(tokens_per_sequence, self.model.context_tokens), self._cores
        )

    def _answer(
        self, chats: Sequence[EncodedChat], max_new_tokens: int, on_rows: Callable[[int], None]
    ) -> list[Answer]:
        plan = self._plan(
            max((len(chat.prompt) + max(len(chat.completion), max_new_tokens) for chat in chats), default=1)
        )
        shards = [chats[start : start + _SHARD_ROWS] for start in range(0, len(chats), _SHARD_ROWS)]
        stop = threading.Event()
        with ThreadPoolExecutor(plan.decoders, thread_name_prefix="decoder") as pool:
            futures = [pool.submit(self._answer_shard, shard, plan, max_new_tokens, stop) for shard in shards]
            try:
                for future in as_completed(futures):
                    on_rows(len(future.result()))
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [answer for future in futures for answer in future.result()]

    def _answer_shard(
        self, shard: Sequence[EncodedChat], plan: DecodingPlan, max_new_tokens: int, stop: threading.Event
    ) -> list[Answer]:
        limits = AnswerLimits(max_new_tokens, self.model.context_tokens, self.model.ends_generation)
        with Decoder(
            self.model,
            sequences=min(plan.sequences, len(shard)),
            tokens_per_sequence=plan.tokens_per_sequence,
            threads=plan.threads,
        ) as decoder:
            return answer_chats(decoder, shard, limits, stop)

    def _to_scored_row(self, row: EvaluationRow, chat: EncodedChat, answer: Answer) -> ScoredRow:
        return ScoredRow(
            row=row,
            prediction=self.model.decode_text(answer.tokens),
            n_tokens=len(answer.tokens),
            stopped=answer.stopped,
            logprob=answer.logprob,
            reference_tokens=len(chat.completion),
        )


def _find_fault(chat: EncodedChat, context_tokens: int) -> str | None:
    if not chat.completion:
        return "the reference answer has no tokens"
    needed = len(chat.prompt) + len(chat.completion)
    if needed > context_tokens:
        return f"prompt and reference have {needed} tokens, the model's context {context_tokens}"
    return None


def _time_tokens(decoder: Decoder, prompt: Sequence[int], max_seconds: float) -> list[float]:
    """Seconds of each token after a prompt; what ends an answer is decoded on, so that all models do equal work."""
    decoder.rewind(0, 0)
    seconds: list[float] = []
    piece = Piece(0, prompt, 0, 1)
    while len(seconds) < 2 or (len(seconds) <= _PROBE_TOKENS and sum(seconds[1:]) < max_seconds):
        started = time.perf_counter()
        choices = [int(logits[-1].argmax()) for _, logits in decoder.decode([piece])]
        seconds.append(time.perf_counter() - started)
        piece = Piece(0, choices, piece.position + len(piece.tokens), 1)
    # The first is the prompt's.
    return seconds[1:]
