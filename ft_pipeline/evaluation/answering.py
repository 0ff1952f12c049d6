"""Answers and reference likelihoods in one pass over many conversations.

A conversation's prompt and reference answer go through the model together. That gives the reference's log-likelihood,
and the model's own choice after each of its tokens. As long as those choices *are* the reference, they are also the
greedy answer, for greedy decoding would have fed the same tokens; where they part, decoding goes on from there. This is
speculative decoding with the reference as draft, at temperature zero (Leviathan et al. 2023, arXiv:2211.17192): the
answer is the one that decoding without a draft gives, up to ties in rounding, and a model that answers well costs no
more than scoring it. From there on a small model's drafts come from what the conversation holds (`drafts.py`).

An answer that is drawn and not greedy is decoded token by token, from the logits after the prompt on.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ft_pipeline.evaluation.agreement import count_agreed
from ft_pipeline.evaluation.chat import EncodedChat
from ft_pipeline.evaluation.drafts import Drafts
from ft_pipeline.evaluation.likelihood import log_likelihoods
from ft_pipeline.evaluation.llama_decoder import Decoder, Logits, Piece
from ft_pipeline.evaluation.sampling import Draw
from ft_pipeline.evaluation.shards import Report

# A shared beginning of fewer tokens is not worth a call of its own.
_LEAST_PREFIX_TOKENS = 8


@dataclass(frozen=True)
class Question:
    """A conversation to answer.

    Attributes:
        chat: Its completion has a token at least.
        new_tokens: Tokens after which the answer is cut.
        draw: Draws each token from its logits; None: the likeliest is taken.
    """

    chat: EncodedChat
    new_tokens: int
    draw: Draw | None = None


@dataclass(frozen=True)
class Answer:
    """What a model says to one prompt.

    Attributes:
        tokens: Ids of the answer; the last is an end-of-generation token if `stopped`.
        stopped: It ended by itself.
        logprob: Log-likelihood of the reference's tokens given the prompt, in nats.
    """

    tokens: tuple[int, ...]
    stopped: bool
    logprob: float


@dataclass(frozen=True)
class AnswerLimits:
    """What holds for all answers of a model.

    Attributes:
        context_tokens: Tokens that prompt and answer have together.
        ends_generation: Whether a token is one of the model's end-of-generation tokens.
        drafts: With each token a guess at the next one is decoded (`drafts.py`).
    """

    context_tokens: int
    ends_generation: Callable[[int], bool]
    drafts: bool = False


@dataclass(eq=False)
class _Turn:
    """A conversation in one of the decoder's sequences, while it is worked on."""

    index: int
    question: Question
    sequence: int
    limits: AnswerLimits
    choices: list[int] = field(default_factory=list)
    logprob: float = 0.0
    tokens: list[int] = field(default_factory=list)
    stopped: bool = False
    next_piece: Piece | None = None
    drafts: Drafts | None = None

    @property
    def chat(self) -> EncodedChat:
        return self.question.chat

    def read_reference(self, logits: Logits) -> None:
        """Take the logits after the prompt's last and the reference's first tokens, in parts if need be."""
        first = len(self.choices)
        targets = self.chat.completion[first : first + len(logits)]
        logprobs, choices = log_likelihoods(logits, np.array(targets))
        self.logprob += float(logprobs.sum())
        if self.question.draw is None:
            self.choices += choices.tolist()
        else:
            drawn = [] if first else [self.question.draw(logits[0])]
            self.choices += drawn + [-1] * (len(logits) - len(drawn))

    def begin_answer(self, decoder: Decoder) -> None:
        """The choices up to the first that is not the reference's are the answer's beginning."""
        if self.question.draw is None:
            self._extend(self.choices[: count_agreed(self.choices, self.chat.completion) + 1])
        else:
            self._extend(self.choices[:1])
        self._plan_step(decoder)

    def read_step(self, logits: Logits) -> None:
        """Take the logits after the last token and after its draft."""
        draw = self.question.draw
        self.choices += logits.argmax(axis=1).tolist() if draw is None else [draw(row) for row in logits]

    def end_step(self, decoder: Decoder) -> None:
        """The choices up to the first that is not the draft's belong to the answer."""
        drafted = self.next_piece.tokens[1:] if self.next_piece else ()
        self._extend(self.choices[: count_agreed(self.choices, drafted) + 1])
        self._plan_step(decoder)

    def _extend(self, tokens: Iterable[int]) -> None:
        """Add tokens until one ends the answer."""
        for token in tokens:
            self.tokens.append(token)
            if self.drafts:
                self.drafts.add(token)
            self.stopped = self.limits.ends_generation(token)
            if self.stopped or self._is_full():
                break

    def _is_full(self) -> bool:
        held = len(self.chat.prompt) + len(self.tokens)
        return len(self.tokens) >= self.question.new_tokens or held >= self.limits.context_tokens

    def _plan_step(self, decoder: Decoder) -> None:
        """`next_piece` is what the decoder needs to go on, if it must; what is not of the answer is forgotten."""
        self.choices.clear()
        if self.stopped or self._is_full():
            self.next_piece = None
            return
        if self.limits.drafts and self.question.draw is None and self.drafts is None:
            self.drafts = Drafts([*self.chat.prompt, *self.chat.completion, *self.tokens])
        drafted = [self.drafts.guess()] if self.drafts else []
        position = len(self.chat.prompt) + len(self.tokens) - 1
        if decoder.rewind(self.sequence, position):
            self.next_piece = Piece(self.sequence, [self.tokens[-1], *drafted], position, 1 + len(drafted))
        else:
            whole = [*self.chat.prompt, *self.tokens, *drafted]
            self.next_piece = Piece(self.sequence, whole, 0, 1 + len(drafted))


def answer_chats(
    decoder: Decoder,
    questions: Sequence[Question],
    limits: AnswerLimits,
    report: Report = lambda _count: None,
    prefix: Sequence[int] = (),
) -> list[Answer]:
    """Answers to all conversations, in their order; a sequence that is done takes the next one.

    Args:
        decoder: Its sequences are empty, and hold prompt, reference and answer of any of the conversations.
        questions: The conversations.
        limits: Where an answer ends.
        report: Called after every step with the number of answers that it finished. What it raises ends all.
        prefix: Tokens that every prompt begins with (`find_prefix`): they go through the model once.

    Raises:
        EvaluationError: llama.cpp fails on a batch.
    """
    if prefix:
        decoder.hold_prefix(prefix)
    waiting = deque(enumerate(questions))
    free = list(range(decoder.sequences))
    active: list[_Turn] = []
    answers: dict[int, Answer] = {}
    while waiting or active:
        # The lowest free sequences first: llama.cpp decodes neighbours together.
        starting = [_Turn(*waiting.popleft(), heapq.heappop(free), limits) for _ in range(min(len(waiting), len(free)))]
        _read_references(decoder, starting)
        _take_steps(decoder, active)
        active = sorted([*active, *starting], key=lambda turn: turn.sequence)
        finished = [turn for turn in active if turn.next_piece is None]
        for turn in finished:
            answers[turn.index] = Answer(tuple(turn.tokens), turn.stopped, turn.logprob)
            active.remove(turn)
            heapq.heappush(free, turn.sequence)
        report(len(finished))
    return [answers[index] for index in range(len(questions))]


def find_prefix(questions: Sequence[Question]) -> list[int]:
    """Tokens that all prompts begin with, such as a system message; empty where they are too few to be worth it.

    Of every prompt a token is left, for what follows it is asked of the model.
    """
    if len(questions) < 2:
        return []
    prompts = [question.chat.prompt[:-1] for question in questions]
    # Whatever the first and the last in order have in common, all have.
    shared = prompts[0][: count_agreed(min(prompts), max(prompts))]
    return shared if len(shared) >= _LEAST_PREFIX_TOKENS else []


def _read_references(decoder: Decoder, turns: Sequence[_Turn]) -> None:
    pieces = []
    for turn in turns:
        start = decoder.prefix_tokens if decoder.rewind(turn.sequence, decoder.prefix_tokens) else 0
        tokens = [*turn.chat.prompt, *turn.chat.completion[:-1]]
        pieces.append(Piece(turn.sequence, tokens[start:], start, len(turn.chat.completion)))
    for index, logits in decoder.decode(pieces):
        turns[index].read_reference(logits)
    for turn in turns:
        turn.begin_answer(decoder)


def _take_steps(decoder: Decoder, turns: Sequence[_Turn]) -> None:
    for index, logits in decoder.decode([turn.next_piece for turn in turns if turn.next_piece]):
        turns[index].read_step(logits)
    for turn in turns:
        turn.end_step(decoder)
