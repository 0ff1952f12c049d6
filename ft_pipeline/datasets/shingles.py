"""Texts as sets of word shingles, hashed many at once. Broder 1997, "On the resemblance and containment of documents".

Case and punctuation do not count; operators do, or formulas would be alike. Of scripts that are written in three bytes
of UTF-8 or more (Chinese, Japanese, Korean, Thai, those of India) each character is a word: few of them set blanks
between words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
# The number of a text goes into a byte of its shingles' hashes, so a step has at most 256; and the scratch space, 8
# bytes for a byte of text, stays inside the processor's cache.
STEP_ROWS = 128
_KEPT = "_+-*/<>=^&|~%"
# Letters folded to lower case; digits, operators, all bytes of other scripts and the zeros between rows kept.
_FOLD = bytes(
    byte
    if byte >= 128 or byte == 0
    else ord(chr(byte).lower())
    if chr(byte).isalnum() or chr(byte) in _KEPT
    else ord(" ")
    for byte in range(256)
)
_FIRST_WIDE = 0xE0  # the first byte of a character of three bytes or more
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2**64
MIX = np.uint64(0xD6E8FEB86659FD93)
_SHIFT_HIGH, _SHIFT_LOW = np.uint64(32), np.uint64(29)
_LOW_BYTE = np.uint64(255)


def shingle_texts(said: pl.Series) -> list[bytes]:
    """What rows are told apart by: all that is said in each, as `Shingler` takes it."""
    return said.str.replace_all("\0", " ", literal=True).cast(pl.Binary).to_list()


class Shingler:
    """Hashes the shingles of many texts at once.

    Args:
        words: Words in a shingle. A text of fewer words has one shingle, of all its words.
    """

    def __init__(self, words: int) -> None:
        self._words = words
        self._powers = self._inverses = np.ones(1, np.uint64)

    def __call__(self, texts: Sequence[bytes]) -> tuple[U64, NDArray[np.int64]]:
        """Shingle hashes of texts in UTF-8 that hold no NUL.

        Returns:
            All hashes, text after text, and where each text's begin, shape (texts + 1,).
        """
        raw = b"\0".join([b"", *texts, b""]).translate(_FOLD)
        buffer = np.frombuffer(raw, np.uint8)
        hashes, starts = self._hash_words(buffer)
        counts = np.diff(np.searchsorted(starts, np.flatnonzero(buffer == 0)))
        hashes, counts = self._pad_short(hashes, counts)
        return self._join_words(hashes, counts)

    def own(self, texts: Sequence[bytes]) -> U64:
        """The set of each text's shingles, sorted; in the low byte of each hash the text's number, of at most 256."""
        hashes, offsets = self(texts)
        owners = np.repeat(np.arange(len(texts), dtype=np.uint64), np.diff(offsets))
        keys = np.sort((hashes & ~_LOW_BYTE) | owners)
        return keys[np.concatenate(([True], keys[1:] != keys[:-1]))]

    def _hash_words(self, buffer: NDArray[np.uint8]) -> tuple[U64, NDArray[np.int64]]:
        """Of each word a hash that does not hang on its place, from prefix sums of a polynomial."""
        self._grow(len(buffer))
        starts, ends = _find_words(buffer)
        prefix = np.zeros(len(buffer) + 1, np.uint64)
        np.cumsum(buffer * self._powers[: len(buffer)], out=prefix[1:])
        hashes = (prefix[ends] - prefix[starts]) * self._inverses[starts]
        hashes ^= hashes >> _SHIFT_HIGH
        hashes *= MIX
        hashes ^= hashes >> _SHIFT_LOW
        return hashes, starts

    def _pad_short(self, hashes: U64, counts: NDArray[np.int64]) -> tuple[U64, NDArray[np.int64]]:
        if not len(counts) or counts.min() >= self._words:
            return hashes, counts
        wanted = np.maximum(counts, self._words)
        before, after = _offsets(counts), _offsets(wanted)
        padded = np.zeros(after[-1], np.uint64)
        padded[np.arange(len(hashes)) + np.repeat(after[:-1] - before[:-1], counts)] = hashes
        return padded, wanted

    def _join_words(self, hashes: U64, counts: NDArray[np.int64]) -> tuple[U64, NDArray[np.int64]]:
        width = len(hashes) - self._words + 1
        shingles = np.zeros(max(width, 0), np.uint64)
        for j in range(self._words):
            shingles ^= shingles >> _SHIFT_HIGH
            shingles += hashes[j : j + width]
            shingles *= MIX
        shingles ^= shingles >> _SHIFT_LOW
        is_whole = np.ones(len(shingles), bool)
        borders = _offsets(counts)[1:-1]
        for j in range(1, self._words):
            is_whole[borders - j] = False
        return shingles[is_whole], _offsets(counts - (self._words - 1))

    def _grow(self, size: int) -> None:
        if size <= len(self._powers):
            return
        size = size * 3 // 2
        self._powers, self._inverses = _powers(_BASE, size), _powers(pow(_BASE, -1, 1 << 64), size)


def owner_of(keys: U64) -> NDArray[np.int64]:
    """The numbers that `own` put into hashes."""
    return (keys & _LOW_BYTE).astype(np.int64)


def _find_words(buffer: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where words begin and where they end, in bytes of folded text between zeros."""
    is_word = buffer > ord(" ")
    edges = np.flatnonzero(is_word[1:] != is_word[:-1]) + 1
    starts, ends = edges[0::2], edges[1::2]
    # A wide character ends the word before it, too.
    cuts = np.flatnonzero(buffer >= _FIRST_WIDE)
    cuts = cuts[is_word[cuts - 1]]
    if not len(cuts):
        return starts, ends
    return np.insert(starts, np.searchsorted(starts, cuts), cuts), np.insert(ends, np.searchsorted(ends, cuts), cuts)


def _offsets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _powers(base: int, count: int) -> U64:
    powers = np.full(count, np.uint64(base))
    powers[0] = 1
    np.multiply.accumulate(powers, out=powers)
    return powers
