"""Answers of a GGUF and the likelihood of the answers that were wanted, many rows at once."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.answering import Answer, AnswerLimits, Question, answer_chats, find_prefix
from ft_pipeline.evaluation.chat import ChatEncoder, EncodedChat
from ft_pipeline.evaluation.decoding_plan import DecodingPlan, cut_shards, plan_decoding
from ft_pipeline.evaluation.gguf_facts import read_gguf_facts
from ft_pipeline.evaluation.llama_decoder import Decoder, count_batch_tokens
from ft_pipeline.evaluation.llama_model import LlamaModel, require_file
from ft_pipeline.evaluation.offload import EXPECTED_TOKENS, ScoringDevice, plan_offload, plan_sequences
from ft_pipeline.evaluation.rows import EvaluationRow, ScoredRow
from ft_pipeline.evaluation.sampling import GREEDY, make_draw
from ft_pipeline.evaluation.shards import Report, run_shards
from ft_pipeline.recipe_evaluation import SamplingSection

_MAX_GPU_SEQUENCES = 64
# Shares of the planned layers that are tried when llama.cpp finds no room on the GPU; the last resort is the CPU.
_LADDER = (1.0, 0.75, 0.5, 0.0)


class LlamaRunner:
    """Puts rows to one GGUF, for as long as the context lasts.

    On a GPU as many layers go as fit; if llama.cpp finds no room for them all the same, fewer.

    Args:
        gguf: The file; the first of its parts if it was split.
        cores: Cores to use; all that the process may use by default.
        device: What to run on, if it is a GPU, with its lease; by default the CPU.
        tell: Hears how many layers are on the GPU.

    Attributes:
        model: The loaded file.

    Raises:
        EvaluationError: on entering: the file does not load, or carries no usable chat template.
    """

    model: LlamaModel

    def __init__(
        self,
        gguf: Path,
        *,
        cores: int | None = None,
        device: ScoringDevice | None = None,
        tell: Callable[[str], None] = lambda _message: None,
    ) -> None:
        self.gguf = gguf
        self._cores = cores or len(os.sched_getaffinity(0))
        self._device = device if device and device.is_gpu else None
        self._tell = tell
        self._rungs = [0]

    def __enter__(self) -> LlamaRunner:
        require_file(self.gguf)
        if self._device:
            self._rungs = self._plan_rungs(self._device)
        self._load()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loaded.close()

    def score(
        self,
        rows: Sequence[EvaluationRow],
        max_new_tokens: int | Callable[[EvaluationRow], int],
        on_rows: Callable[[int], None] = lambda _count: None,
        sampling: SamplingSection = GREEDY,
    ) -> list[ScoredRow]:
        """An answer to each row, and the log-likelihood of its reference.

        A row that is longer than the model's context is not put to it: it comes back with a fault.

        Args:
            rows: What to ask.
            max_new_tokens: Tokens after which an answer is cut, of all rows or by the row.
            on_rows: Called with the number of rows that were finished since its last call.
            sampling: Greedy, or how tokens are drawn.

        Raises:
            EvaluationError: the template fails on a row, or llama.cpp on a batch.
        """
        limit = max_new_tokens if callable(max_new_tokens) else lambda _row: max_new_tokens
        chats = [self._encoder.encode(row) for row in rows]
        faults = [_find_fault(chat, self.model.context_tokens) for chat in chats]
        fitting = [
            Question(chat, limit(row), make_draw(sampling, row))
            for row, chat, fault in zip(rows, chats, faults, strict=True)
            if fault is None
        ]
        answers = iter(self._answer(fitting, on_rows))
        if len(fitting) < len(rows):
            on_rows(len(rows) - len(fitting))
        return [
            self._to_scored_row(row, chat, next(answers))
            if fault is None
            else ScoredRow(row, "", 0, stopped=False, logprob=0.0, reference_tokens=0, fault=fault)
            for row, chat, fault in zip(rows, chats, faults, strict=True)
        ]

    def encode(self, row: EvaluationRow) -> EncodedChat:
        """A row in tokens, as `score` puts it.

        Raises:
            EvaluationError: the template fails on it.
        """
        return self._encoder.encode(row)

    def open_alone(self, rows: Sequence[EvaluationRow], new_tokens: int) -> tuple[Decoder, list[list[int]], int]:
        """What it takes to answer rows one at a time, on the threads that a decoder has where there are many rows.

        Returns:
            A decoder of one sequence, to be entered; the prompts, cut to leave room for `new_tokens`; the threads.
        """
        room = self.model.context_tokens - new_tokens
        prompts = [self._encoder.encode(row).prompt[-room:] for row in rows]
        plan = self._plan(max(map(len, prompts)) + new_tokens, outputs=1, shards=self._cores)
        return self._make_decoder(plan, sequences=1), prompts, plan.threads

    # -- loading -----------------------------------------------------------------------------------------------------

    def _plan_rungs(self, device: ScoringDevice) -> list[int]:
        """Counts of layers to try, the planned one first."""
        facts = read_gguf_facts(self.gguf)
        planned = plan_offload(
            facts,
            free_vram_bytes=device.free_bytes,
            sequences=_MAX_GPU_SEQUENCES,
            tokens_per_sequence=EXPECTED_TOKENS,
            batch_tokens=count_batch_tokens(max(1, facts.vocabulary)),
        ).n_gpu_layers
        self._tell(f"{self.gguf.name}: {planned} of {len(facts.layers) + 1} layers go onto {device.label}")
        return list(dict.fromkeys(int(planned * share) for share in _LADDER))

    def _load(self) -> None:
        while True:
            with ExitStack() as stack:
                try:
                    self.model = stack.enter_context(LlamaModel(self.gguf, n_gpu_layers=self._rungs[0]))
                except EvaluationError as err:
                    self._step_down(err)
                    continue
                self._encoder = stack.enter_context(ChatEncoder(self.model))
                self._loaded = stack.pop_all()
            return

    def _step_down(self, err: EvaluationError) -> None:
        if len(self._rungs) == 1:
            raise err
        tried = self._rungs.pop(0)
        instead = f"{self._rungs[0]} layers" if self._rungs[0] else "the CPU alone"
        self._tell(f"{self.gguf.name} is tried with {instead}; with {tried} layers on the GPU it does not work: {err}")

    # -- decoding ----------------------------------------------------------------------------------------------------

    def _plan(self, tokens_per_sequence: int, *, outputs: int, shards: int) -> DecodingPlan:
        """A plan that works: on the GPU a context is made by it, and layers are taken off where that fails."""
        tokens = min(tokens_per_sequence, self.model.context_tokens)
        while self._device and self.model.n_gpu_layers:
            found = plan_sequences(
                self.model.facts,
                self.model.n_gpu_layers,
                free_vram_bytes=self._device.free_bytes,
                sequences=_MAX_GPU_SEQUENCES,
                tokens_per_sequence=tokens,
                batch_tokens=count_batch_tokens(self.model.vocabulary_size),
            )
            plan = DecodingPlan(1, found.sequences, tokens, self._cores, found.micro_batch_tokens)
            try:
                with self._make_decoder(plan, plan.sequences):
                    return plan
            except EvaluationError as err:
                self._step_down(err)
            self._loaded.close()
            self._load()
        return plan_decoding(
            [self.model.facts],
            tokens_per_sequence=tokens,
            outputs_per_sequence=outputs,
            shards=shards,
            cores=self._cores,
            is_small=self.model.is_small,
        )

    @property
    def _drafts(self) -> bool:
        # In a small model's step ggml's attention to a single token of a sequence takes the most time, and to two no
        # more, so a guess at the next one is free (4M weights, 16 sequences: 0.15 ms a token against 0.45). In a large
        # one products with weights do.
        return self.model.is_small and self.model.can_rewind

    def _make_decoder(self, plan: DecodingPlan, sequences: int) -> Decoder:
        return Decoder(
            self.model,
            sequences=sequences,
            tokens_per_sequence=plan.tokens_per_sequence,
            threads=plan.threads,
            micro_batch_tokens=plan.micro_batch_tokens,
        )

    def _answer(self, questions: Sequence[Question], on_rows: Callable[[int], None]) -> list[Answer]:
        if not questions:
            return []
        lengths = [len(one.chat.prompt) + max(len(one.chat.completion), one.new_tokens) for one in questions]
        outputs = max(len(one.chat.completion) for one in questions)
        # Neighbours of one length: llama.cpp splits a batch where its sequences end. The longest first.
        order = sorted(range(len(questions)), key=lambda index: -_count_tokens(questions[index].chat))
        plan = self._plan(max(lengths), outputs=outputs, shards=len(cut_shards(order, is_small=self.model.is_small)))
        shards = [order] if self.model.n_gpu_layers else cut_shards(order, is_small=self.model.is_small)
        prefix = find_prefix(questions) if self.model.can_rewind else []
        limits = AnswerLimits(self.model.context_tokens, self.model.vocabulary.ends_generation, self._drafts)

        def work(shard: Sequence[int], report: Report) -> list[Answer]:
            with self._make_decoder(plan, min(plan.sequences, len(shard))) as decoder:
                return answer_chats(decoder, [questions[index] for index in shard], limits, report, prefix)

        found = run_shards(work, shards, plan.decoders, on_rows)
        answers = dict(zip(order, itertools.chain.from_iterable(found), strict=True))
        return [answers[index] for index in range(len(questions))]

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
    needed = _count_tokens(chat)
    if needed > context_tokens:
        return f"prompt and reference have {needed} tokens, the model's context {context_tokens}"
    return None


def _count_tokens(chat: EncodedChat) -> int:
    return len(chat.prompt) + len(chat.completion)
