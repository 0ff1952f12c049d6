"""Ids of many texts at once, and the proof that a prompt's ids begin those of its conversation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ft_pipeline.datasets.tokenizer import Tokenizer

# Headers of turns repeat from row to row; whole prompts do not.
_CACHED_CHARS = 64
_MOST_CACHED = 4096
_Anchor = tuple[int, str]


class BatchEncoder:
    """Encodes texts, and knows which tokens cut them.

    Args:
        tokenizer: The base's tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        tokens = tokenizer.added
        self._ids = {token.content: token_id for token_id, token in tokens.items() if token.content}
        # The model itself falls back to the unknown token: it need not be where the text says so.
        self._anchors = set(self._ids) - {tokenizer.unk_token}
        is_plain = tokenizer.is_rust and all(map(self._is_plain, tokens.values()))
        self._added = match_longest(self._ids) if is_plain and self._ids else None
        special = [token for token in tokens.values() if token.special and token.content]
        self._special_ids = {self._ids[token.content] for token in special if token.content in self._anchors}
        self._special = match_longest([token.content for token in special]) if special else None
        self._is_exact = all(map(self._is_plain, special))
        self._tails: dict[str, list[int]] = {}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        return self._tokenizer.encode(texts)

    def find_control_token(self, text: str) -> str | None:
        """The first text in `text` that the tokenizer reads as a special token; None where there is none."""
        if self._special is None:
            return None
        if self._is_exact:
            found = self._special.search(text)
            return found.group() if found else None
        # Special tokens that match in normalized text, or only as whole words: the tokenizer alone knows.
        special = next((token_id for token_id in self.encode([text])[0] if token_id in self._special_ids), None)
        return None if special is None else self._tokenizer.spell(special)

    def find_prompt_ends(self, rows: Sequence[tuple[str, list[int], Sequence[int]]]) -> list[list[int | None]]:
        """How many ids each prompt has that begins a row.

        A tokenizer cuts a text at its added tokens before anything else, so the ids up to one of them depend on nothing
        behind it. From the last one within the prompt on, the prompt's own ids are made and compared: nearly always a
        header, made once. Without such a token the whole prompt is encoded.

        Args:
            rows: Text, ids, and where in the text each prompt ends.

        Returns:
            For each row and prompt the number of its ids; None where they do not begin the row's ids.
        """
        anchors = [self._find_anchors(text, ids, ends) for text, ids, ends in rows]
        tails = self._encode_tails({tail for row in anchors for _, tail in row})
        return [
            [_match(ids, position, tails[tail]) for position, tail in row]
            for (_, ids, _), row in zip(rows, anchors, strict=True)
        ]

    def _find_anchors(self, text: str, ids: list[int], ends: Sequence[int]) -> list[_Anchor]:
        if self._added is None:
            return [(0, text[:end]) for end in ends]
        found = [(match.start(), match.end(), match.group()) for match in self._added.finditer(text)]
        contents = [content for _, _, content in found]
        return [self._find_anchor(text, ids, end, found, contents) for end in ends]

    def _find_anchor(
        self, text: str, ids: list[int], end: int, found: list[tuple[int, int, str]], contents: list[str]
    ) -> _Anchor:
        """Position in the ids of the last added token before `end`, and the text from it on."""
        for number in range(len(found) - 1, -1, -1):
            start, stop, content = found[number]
            if stop > end or content not in self._anchors:
                continue
            token_id = self._ids[content]
            # Text and ids must agree on all of them, or counting finds the wrong one.
            if ids.count(token_id) != contents.count(content):
                break
            position = -1
            for _ in range(contents[: number + 1].count(content)):
                position = ids.index(token_id, position + 1)
            return position, text[start:end]
        return 0, text[:end]

    def _encode_tails(self, tails: set[str]) -> dict[str, list[int]]:
        missing = [tail for tail in tails if tail not in self._tails]
        encoded = dict(zip(missing, self.encode(missing), strict=True))
        found = {tail: encoded[tail] if tail in encoded else self._tails[tail] for tail in tails}
        if len(self._tails) < _MOST_CACHED:
            self._tails |= {tail: ids for tail, ids in encoded.items() if len(tail) <= _CACHED_CHARS}
        return found

    def _is_plain(self, token: Any) -> bool:
        """Found wherever its characters stand, whatever is around them."""
        engine = self._tokenizer.engine
        is_normalized = token.normalized and (not self._tokenizer.is_rust or engine.normalizer is not None)
        return not (is_normalized or token.lstrip or token.rstrip or token.single_word)


def _match(ids: list[int], position: int, tail: list[int]) -> int | None:
    end = position + len(tail)
    return end if ids[position:end] == tail else None


def match_longest(words: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds the leftmost of some words, the longest there, as the Rust tokenizer does.

    It is a tree of the words: bases with thousands of added tokens would be slow to search one by one.
    """
    tree: dict[str, Any] = {}
    for word in words:
        node = tree
        for character in word:
            node = node.setdefault(character, {})
        node[""] = {}
    return re.compile(_write_branches(tree))


def _write_branches(node: dict[str, Any]) -> str:
    branches = []
    for character, below in node.items():
        if not character:
            continue
        run = re.escape(character)
        while len(below) == 1 and "" not in below:
            ((character, below),) = below.items()  # noqa: PLW2901
            run += re.escape(character)
        branches.append(run + _write_branches(below))
    if not branches:
        return ""
    return f"(?:{'|'.join(branches)})" + ("?" if "" in node else "")
