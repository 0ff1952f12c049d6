"""Greedy answers and reference likelihoods in one pass over many conversations.

A conversation's prompt and reference answer go through the model together. That gives the reference's log-likelihood,
and the model's own choice after each of its tokens. As long as those choices *are* the reference, they are also the
greedy answer, for greedy decoding would have fed the same tokens; where they part, decoding goes on from there, one
token at a time. This is speculative decoding with the reference as draft, at temperature zero (Leviathan et al. 2023,
arXiv:2211.17192): the answer is the one that decoding without a draft gives, up to ties in rounding, and a model that
answers well costs no more than scoring it.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from threading import Event

import numpy as np

from ft_pipeline.errors import StageCancelled
from ft_pipeline.evaluation.chat import EncodedChat
from ft_pipeline.evaluation.llama_decoder import Decoder, Logits, Piece


@dataclass(frozen=True)
class Answer:
    """What a model says to one prompt.

    Attributes:
        tokens: Ids of the greedy answer; the last is an end-of-generation token if `stopped`.
        stopped: It ended by itself.
        logprob: Log-likelihood of the reference's tokens given the prompt, in nats.
    """

    tokens: tuple[int, ...]
    stopped: bool
    logprob: float


@dataclass(frozen=True)
class AnswerLimits:
    """Where an answer ends.

    Attributes:
        new_tokens: Tokens after which it is cut.
        context_tokens: Tokens that prompt and answer have together.
        ends_generation: Whether a token is one of the model's end-of-generation tokens.
    """

    new_tokens: int
    context_tokens: int
    ends_generation: Callable[[int], bool]


@dataclass(eq=False)
class _Turn:
    """A conversation in one of the decoder's sequences, while it is worked on."""

    index: int
    chat: EncodedChat
    sequence: int
    choices: list[int] = field(default_factory=list)
    logprob: float = 0.0
    tokens: list[int] = field(default_factory=list)
    stopped: bool = False
    next_piece: Piece | None = None

    def read_reference(self, logits: Logits) -> None:
        """Take the logits after the prompt's last and the reference's first tokens, in parts if need be."""
        first = len(self.choices)
        targets = self.chat.completion[first : first + len(logits)]
        peak = logits.max(axis=1)
        # The logits of a broken model are no numbers, nor is what follows from them; the gate lets none of that pass.
        with np.errstate(invalid="ignore"):
            log_total = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1, dtype=np.float64))
        self.logprob += float((logits[np.arange(len(logits)), targets] - log_total).sum())
        self.choices += logits.argmax(axis=1).tolist()

    def begin_answer(self, decoder: Decoder, limits: AnswerLimits) -> None:
        """The choices up to the first that is not the reference's are the answer's beginning."""
        agreed = sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self.choices, self.chat.completion, strict=True))
        )
        self.extend(self.choices[: agreed + 1], limits)
        if self.next_piece and not decoder.rewind(self.sequence, self.next_piece.position):
            whole = [*self.chat.prompt, *self.tokens]
            self.next_piece = Piece(self.sequence, whole, 0, 1)

    def extend(self, tokens: Iterable[int], limits: AnswerLimits) -> None:
        """Add tokens until one ends the answer; `next_piece` is what the decoder needs to go on, if it must."""
        for token in tokens:
            self.tokens.append(token)
            self.stopped = limits.ends_generation(token)
            held = len(self.chat.prompt) + len(self.tokens)
            if self.stopped or len(self.tokens) >= limits.new_tokens or held >= limits.context_tokens:
                self.next_piece = None
                return
            self.next_piece = Piece(self.sequence, [token], held - 1, 1)


def answer_chats(decoder: Decoder, chats: Sequence[EncodedChat], limits: AnswerLimits, stop: Event) -> list[Answer]:
    """Answers to all conversations, in their order; a sequence that is done takes the next one.

    Args:
        decoder: Its sequences are empty, and hold prompt, reference and answer of any of the conversations.
        chats: Conversations whose completions have a token at least.
        limits: Where an answer ends.
        stop: Set by another thread to give up.

    Raises:
        EvaluationError: llama.cpp fails on a batch.
        StageCancelled: `stop` was set.
    """
    waiting = deque(enumerate(chats))
    free = list(range(decoder.sequences))
    active: list[_Turn] = []
    answers: dict[int, Answer] = {}
    while waiting or active:
        if stop.is_set():
            raise StageCancelled("the evaluation was asked to stop")
        # The lowest free sequences first: llama.cpp decodes neighbours together.
        starting = [_Turn(*waiting.popleft(), heapq.heappop(free)) for _ in range(min(len(waiting), len(free)))]
        _read_references(decoder, starting, limits)
        _take_steps(decoder, active, limits)
        active = sorted([*active, *starting], key=lambda turn: turn.sequence)
        for turn in [turn for turn in active if turn.next_piece is None]:
            answers[turn.index] = Answer(tuple(turn.tokens), turn.stopped, turn.logprob)
            active.remove(turn)
            decoder.rewind(turn.sequence, 0)
            heapq.heappush(free, turn.sequence)
    return [answers[index] for index in range(len(chats))]


def _read_references(decoder: Decoder, turns: Sequence[_Turn], limits: AnswerLimits) -> None:
    pieces = [
        Piece(turn.sequence, [*turn.chat.prompt, *turn.chat.completion[:-1]], 0, len(turn.chat.completion))
        for turn in turns
    ]
    for index, logits in decoder.decode(pieces):
        turns[index].read_reference(logits)
    for turn in turns:
        turn.begin_answer(decoder, limits)


def _take_steps(decoder: Decoder, turns: Sequence[_Turn], limits: AnswerLimits) -> None:
    pieces = [turn.next_piece for turn in turns if turn.next_piece]
    choices = [(index, int(logits[-1].argmax())) for index, logits in decoder.decode(pieces)]
    for index, token in choices:
        turns[index].extend([token], limits)
