"""Guesses at an answer's next token, from what the conversation holds already.

Prompt lookup (Saxena 2023, and llama.cpp's examples/lookup): where the last tokens stood before, in the prompt, the
reference or the answer itself, what followed them there is likely to follow again. The model checks every guess.
"""

from __future__ import annotations

from collections.abc import Iterable

# The longer match is asked first.
_LENGTHS = (3, 2, 1)


class Drafts:
    """The tokens of one conversation, and where runs of them last stood.

    Args:
        tokens: Prompt, reference and answer so far.
    """

    def __init__(self, tokens: Iterable[int]) -> None:
        self._tokens: list[int] = []
        self._following: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        """The next token is known."""
        for length in _LENGTHS:
            self._following[tuple(self._tokens[-length:])] = token
        self._tokens.append(token)

    def guess(self) -> int:
        """What may come next: there is always a guess, for llama.cpp decodes sequences of one length together."""
        runs = (tuple(self._tokens[-length:]) for length in _LENGTHS)
        return next((self._following[run] for run in runs if run in self._following), self._tokens[-1])
