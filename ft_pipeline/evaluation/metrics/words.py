"""Words of a text in any script, and the F-measure of two texts by them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

# Of an answer that never ends, what is beyond is not compared: 200,000 characters would take seconds.
MAX_CHARS = 10_000
# Scripts that put no spaces between words: each character is a word, as in mBERT's tokenizer and MLQA's F1.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # ideographic iteration mark and zero
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


class CharacterTable(dict[int, str]):
    """A table for `str.translate` that asks its rule once per character.

    What the rule keeps as it is stands alone where its script puts no spaces between words.
    """

    def __init__(self, rule: Callable[[str], str]) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, code: int) -> str:
        character = chr(code)
        replacement = self._rule(character)
        if replacement == character and is_unspaced(character):
            replacement = f" {character} "
        self[code] = replacement
        return replacement


def fold(text: str) -> str:
    """The text in compatibility form, without upper case."""
    return unicodedata.normalize("NFKC", text).casefold()


def word_f1(
    answer: str, reference: str, table: CharacterTable, count_common: Callable[[Sequence[str], Sequence[str]], int]
) -> float:
    """Harmonic mean of precision and recall; of texts without any word, whether they are equal.

    Args:
        answer: The answer.
        reference: What it is held against.
        table: What becomes of their characters.
        count_common: How many words two texts have in common.
    """
    ours, theirs = split_words(answer, table), split_words(reference, table)
    if not (ours and theirs):
        return float(answer.strip() == reference.strip())
    return 2 * count_common(ours, theirs) / (len(ours) + len(theirs))


def split_words(text: str, table: CharacterTable) -> list[str]:
    """Words of the folded text's first 10,000 characters, after each was replaced by the table."""
    return fold(text[:MAX_CHARS]).translate(table).split()


def is_unspaced(character: str) -> bool:
    """Whether it belongs to a script that puts no spaces between words."""
    return any(first <= ord(character) <= last for first, last in _UNSPACED)
