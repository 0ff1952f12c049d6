"""Likelihoods of texts and greedy answers up to a stop string: what lm-evaluation-harness asks of a model."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Protocol, TypeVar

import numpy as np

from ft_pipeline.evaluation.agreement import count_agreed
from ft_pipeline.evaluation.decoding_plan import cut_shards, plan_decoding
from ft_pipeline.evaluation.likelihood import log_likelihoods
from ft_pipeline.evaluation.llama_decoder import Decoder, Logits, Piece
from ft_pipeline.evaluation.llama_model import LlamaModel
from ft_pipeline.evaluation.shards import Report, run_shards

Likelihood = tuple[float, bool]


@dataclass(frozen=True)
class Reading:
    """Tokens to put through the model, and those that are scored.

    Attributes:
        inputs: What the model sees.
        targets: The tokens that follow the last `len(targets)` inputs, at least one and no more than the inputs.
    """

    inputs: Sequence[int]
    targets: Sequence[int]


@dataclass(frozen=True)
class Continuation:
    """A text to go on from.

    Attributes:
        prompt: Its tokens, at least one.
        stops: The answer ends before the first of these.
        new_tokens: Tokens after which it is cut.
    """

    prompt: Sequence[int]
    stops: Sequence[str]
    new_tokens: int


class BatchedDecoding:
    """Spreads jobs over a model's decoders, each with several sequences.

    Args:
        model: The loaded model.
        cores: Cores to use.
    """

    def __init__(self, model: LlamaModel, cores: int) -> None:
        self._model = model
        self._cores = cores

    def score(self, readings: Sequence[Reading], on_done: Callable[[int], None]) -> list[Likelihood]:
        """For each reading the log-likelihood of its targets in nats, and whether they are the model's own choice.

        Neighbours that begin alike, such as the choices of one question, are put through one sequence after the other:
        what they share is read once.
        """
        jobs = [_ScoringJob(group) for group in _group_by_beginning(readings)]
        longest = max((len(reading.inputs) for reading in readings), default=1)
        outputs = max((len(reading.targets) for reading in readings), default=1)
        done = self._run(jobs, longest, outputs, on_done)
        return [likelihood for job in done for likelihood in job.likelihoods]

    def answer(self, questions: Sequence[Continuation], on_done: Callable[[int], None]) -> list[str]:
        """Greedy answers, without the stop string and what follows it."""
        jobs = [_AnsweringJob(question, self._model) for question in questions]
        longest = max((len(question.prompt) + question.new_tokens for question in questions), default=1)
        return [job.text for job in self._run(jobs, longest, 1, on_done)]

    def _run(self, jobs: list[_JobT], longest: int, outputs: int, on_done: Callable[[int], None]) -> list[_JobT]:
        shards = cut_shards(jobs, is_small=self._model.is_small)
        plan = plan_decoding(
            [self._model.facts],
            tokens_per_sequence=longest,
            outputs_per_sequence=outputs,
            # Two contexts would share one GPU and wait for each other.
            shards=1 if self._model.n_gpu_layers else max(1, len(shards)),
            cores=self._cores,
            is_small=self._model.is_small,
        )

        def work(shard: Sequence[_JobT], report: Report) -> None:
            with Decoder(
                self._model,
                sequences=min(plan.sequences, len(shard)),
                tokens_per_sequence=plan.tokens_per_sequence,
                threads=plan.threads,
            ) as decoder:
                _finish_jobs(decoder, shard, report)

        run_shards(work, shards, plan.decoders, on_done)
        return jobs


class _Job(Protocol):
    """Work in one of a decoder's sequences; `size` is the number of requests that it answers."""

    size: int

    @property
    def finished(self) -> bool: ...

    def next_piece(self, decoder: Decoder, sequence: int) -> Piece: ...

    def read(self, logits: Logits) -> None: ...


_JobT = TypeVar("_JobT", bound=_Job)


def _finish_jobs(decoder: Decoder, jobs: Sequence[_Job], report: Report) -> None:
    waiting = deque(jobs)
    free = list(range(decoder.sequences))
    active: list[tuple[int, _Job]] = []
    while waiting or active:
        active += [(heapq.heappop(free), waiting.popleft()) for _ in range(min(len(waiting), len(free)))]
        # llama.cpp decodes neighbours together.
        active.sort(key=lambda pair: pair[0])
        pieces = [job.next_piece(decoder, sequence) for sequence, job in active]
        for index, logits in decoder.decode(pieces):
            active[index][1].read(logits)
        finished = [pair for pair in active if pair[1].finished]
        for sequence, _ in finished:
            decoder.rewind(sequence, 0)
            heapq.heappush(free, sequence)
        report(sum(job.size for _, job in finished))
        active = [pair for pair in active if not pair[1].finished]


class _ScoringJob:
    """Readings that begin alike, one after the other."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self.size = len(readings)
        self.likelihoods: list[Likelihood] = []
        self._waiting = deque(readings)
        self._held: Sequence[int] = ()
        self._read = 0
        self._sum, self._greedy = np.zeros(0), np.zeros(0, bool)

    @property
    def finished(self) -> bool:
        return not self._waiting

    def next_piece(self, decoder: Decoder, sequence: int) -> Piece:
        inputs, targets = self._waiting[0].inputs, self._waiting[0].targets
        position = min(count_agreed(self._held, inputs), len(inputs) - len(targets))
        if not decoder.rewind(sequence, position):
            position = 0
        self._held = inputs
        self._read = 0
        # Readings of the same inputs part at their last target alone: one piece serves them all.
        self._now = [*takewhile(lambda reading: reading.inputs == inputs, self._waiting)]
        self._sum, self._greedy = np.zeros(len(self._now)), np.ones(len(self._now), bool)
        return Piece(sequence, inputs[position:], position, len(targets))

    def read(self, logits: Logits) -> None:
        part = slice(self._read, self._read + len(logits))
        targets = np.array([reading.targets[part] for reading in self._now])
        chosen, choices = log_likelihoods(logits, targets)
        self._sum += chosen.sum(axis=1)
        self._greedy &= (targets == choices).all(axis=1)
        self._read = part.stop
        if self._read == len(self._now[0].targets):
            self.likelihoods += zip(self._sum.tolist(), self._greedy.tolist(), strict=True)
            for _ in self._now:
                self._waiting.popleft()


@dataclass(eq=False)
class _AnsweringJob:
    """One answer, a token at a time."""

    question: Continuation
    model: LlamaModel
    size: int = 1
    finished: bool = False
    tokens: list[int] = field(default_factory=list)
    _bytes: bytearray = field(default_factory=bytearray)

    @property
    def text(self) -> str:
        text = self.model.decode_text(self.tokens)
        for stop in self.question.stops:
            text = text.split(stop, maxsplit=1)[0]
        return text

    def next_piece(self, decoder: Decoder, sequence: int) -> Piece:
        del decoder
        held = len(self.question.prompt) + len(self.tokens)
        if not self.tokens:
            return Piece(sequence, self.question.prompt, 0, 1)
        return Piece(sequence, self.tokens[-1:], held - 1, 1)

    def read(self, logits: Logits) -> None:
        token = int(logits[-1].argmax())
        if self.model.vocabulary.ends_generation(token):
            self.finished = True
            return
        self.tokens.append(token)
        # A stop string may be the text of a control token, which no answer shows.
        piece = self.model.piece(token, special=True)
        self._bytes += piece
        found = any(
            self._bytes.find(stop, max(0, len(self._bytes) - len(piece) - len(stop))) >= 0
            for stop in (text.encode() for text in self.question.stops)
        )
        self.finished = found or len(self.tokens) >= self.question.new_tokens


def _group_by_beginning(readings: Sequence[Reading]) -> list[list[Reading]]:
    """Neighbours with the same tokens before their targets."""
    groups: list[list[Reading]] = []
    former: Sequence[int] | None = None
    for reading in readings:
        beginning = reading.inputs[: len(reading.inputs) - len(reading.targets) + 1]
        if beginning != former:
            groups.append([])
        groups[-1].append(reading)
        former = beginning
    return groups
