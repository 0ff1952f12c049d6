"""Whether answers that differ do so because two tokens were equally likely, up to rounding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.evaluation_runs import Machine, Run
from ft_pipeline.evaluation.llama_decoder import Decoder, Piece
from ft_pipeline.evaluation.llama_model import LlamaModel

_COMPARED_ROWS = 32
_SEQUENCES = 16
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Chat:
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Difference:
    """Where two answers to a row part.

    Attributes:
        row: Number of the row.
        position: Tokens of the answers before it.
        ours: Our token there; None if our answer has ended.
        theirs: That of the row-by-row run.
        top: The two most likely tokens, when prompt and common beginning are decoded alone, token by token.
        margin: By how much the first one's logit is larger.
    """

    row: int
    position: int
    ours: int | None
    theirs: int | None
    top: tuple[int, int]
    margin: float

    def is_tie(self, rounding: float) -> bool:
        """Both tokens are the two most likely, and no more than the rounding lies between them."""
        return {self.ours, self.theirs} == set(self.top) and self.margin <= rounding


@dataclass(frozen=True)
class Rounding:
    """How far the margin between the two most likely tokens moves, when the same tokens are decoded in a batch.

    Attributes:
        positions: Tokens that were compared, each in both ways: a step at a time, and as whole texts.
        root_mean_square: Of the moves.
        largest: Of the moves, in size.
        median_margin: Of the margins themselves, decoded alone.
    """

    positions: int
    root_mean_square: float
    largest: float
    median_margin: float


def find_differences(gguf: Path, ours: Run, theirs: Run, machine: Machine) -> list[Difference]:
    """The first token at which each pair of unequal answers parts, and what the model finds there undisturbed."""
    found = []
    with ExitStack() as stack:
        model = stack.enter_context(LlamaModel(gguf, n_gpu_layers=machine.gpu_layers))
        decoder = stack.enter_context(_open(model, 1, machine))
        for row, (our, their) in enumerate(zip(ours.answers, theirs.answers, strict=True)):
            if our == their:
                continue
            pairs = enumerate(zip(our, their, strict=False))
            position = next((at for at, (a, b) in pairs if a != b), min(len(our), len(their)))
            beginning = (our if len(our) > position else their)[: position + 1]
            *_, (_, _, logits) = _decode(decoder, [_Chat(theirs.prompts[row], beginning)], whole=False)
            first, second, margin = _find_top(logits)
            tokens = [answer[position] if position < len(answer) else None for answer in (our, their)]
            found.append(Difference(row, position, tokens[0], tokens[1], (first, second), margin))
    return found


def measure_rounding(gguf: Path, ours: Run, theirs: Run, machine: Machine) -> Rounding:
    """Over rows that were answered alike, or over all where none was: decoded alone and sixteen at a time."""
    answered = list(zip(theirs.prompts, theirs.answers, ours.answers, strict=True))
    alike = [row for row in answered if row[1] == row[2]] or answered
    chats = [_Chat(prompt, answer) for prompt, answer, _ in alike[:_COMPARED_ROWS]]
    alone: dict[tuple[int, int], tuple[int, int, float]] = {}
    moves = []
    with LlamaModel(gguf, n_gpu_layers=machine.gpu_layers) as model:
        with _open(model, 1, machine) as decoder:
            for number, chat in enumerate(chats):
                for _, position, logits in _decode(decoder, [chat], whole=False):
                    alone[number, position] = _find_top(logits)
        with _open(model, _SEQUENCES, machine) as decoder:
            for start in range(0, len(chats), _SEQUENCES):
                for whole in (False, True):
                    for index, position, logits in _decode(decoder, chats[start : start + _SEQUENCES], whole=whole):
                        first, second, margin = alone[start + index, position]
                        moves.append(float(logits[first] - logits[second]) - margin)
    sizes = np.abs(moves)
    margins = [margin for _, _, margin in alone.values()]
    return Rounding(len(alone), float(np.sqrt(np.mean(sizes**2))), float(sizes.max()), float(np.median(margins)))


def _open(model: LlamaModel, sequences: int, machine: Machine) -> Decoder:
    return Decoder(model, sequences=sequences, tokens_per_sequence=machine.context_tokens, threads=machine.cores)


def _decode(decoder: Decoder, chats: Sequence[_Chat], *, whole: bool) -> Iterator[tuple[int, int, Logits]]:
    """Logits before each token of the answers: the chat's index, the position in its answer, and they."""
    for sequence in range(len(chats)):
        decoder.rewind(sequence, 0)
    if whole:
        seen = [0] * len(chats)
        pieces = [Piece(i, [*c.prompt, *c.answer[:-1]], 0, len(c.answer)) for i, c in enumerate(chats)]
        for index, rows in decoder.decode(pieces):
            for logits in rows:
                yield index, seen[index], logits
                seen[index] += 1
        return
    for step in range(max(len(chat.answer) for chat in chats)):
        going = [index for index, chat in enumerate(chats) if step < len(chat.answer)]
        pieces = [_make_step(index, chats[index], step) for index in going]
        for index, rows in decoder.decode(pieces):
            yield going[index], step, rows[-1]


def _make_step(sequence: int, chat: _Chat, step: int) -> Piece:
    if step == 0:
        return Piece(sequence, chat.prompt, 0, 1)
    return Piece(sequence, [chat.answer[step - 1]], len(chat.prompt) + step - 1, 1)


def _find_top(logits: Logits) -> tuple[int, int, float]:
    second, first = (int(token) for token in np.argpartition(logits, -2)[-2:])
    if logits[second] > logits[first]:
        first, second = second, first
    return first, second, float(logits[first] - logits[second])
