"""Rows that say nearly the same: MinHash signatures of word shingles, banded, and the exact Jaccard index of the pairs.

Broder 1997, "On the resemblance and containment of documents"; banding as in Leskovec, Rajaraman and Ullman, "Mining of
Massive Datasets", section 3.4. The signatures are rensa's. With 8 bands of 3 a pair of a Jaccard index of 0.8 shares a
band with a probability of 99.7 %; the index itself is then computed exactly, so a pair that is reported is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

BANDS, BAND_ROWS = 8, 3
_SEED = 42
# Letters folded to lower case, digits and all bytes of other scripts kept, a zero between rows, all else a blank.
_FOLD = bytes(
    byte
    if byte >= 128 or byte == 0
    else ord(chr(byte).lower())
    if chr(byte).isalnum() or chr(byte) == "_"
    else ord(" ")
    for byte in range(256)
)
_U64 = NDArray[np.uint64]
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2**64
_MIX = np.uint64(0xD6E8FEB86659FD93)
_LOW_BYTE = np.uint64(255)
_SHIFT_HIGH, _SHIFT_LOW = np.uint64(32), np.uint64(29)
# Rows in a step, at most 256: the scratch space, 8 bytes for a byte of text, should stay inside the processor's cache.
_STEP_ROWS = 256


def shingle_texts(said: pl.Series) -> list[str]:
    """What rows are told apart by: all that is said in each, as `Shingler` takes it."""
    return said.str.replace_all("\0", " ", literal=True).to_list()


class Shingler:
    """Hashes the shingles of many texts at once.

    Args:
        words: Words in a shingle. A text of fewer words has one shingle, of all its words.
    """

    def __init__(self, words: int) -> None:
        self._words = words
        self._powers = self._inverses = np.ones(1, np.uint64)

    def __call__(self, texts: Sequence[str]) -> tuple[_U64, NDArray[np.int64]]:
        """Shingle hashes of texts that hold no NUL.

        Returns:
            All hashes, text after text, and where each text's begin, shape (texts + 1,).
        """
        raw = ("\0" + "\0".join(texts) + "\0").encode("utf-8", "replace").translate(_FOLD)
        buffer = np.frombuffer(raw, np.uint8)
        hashes, starts = self._hash_words(buffer)
        counts = np.diff(np.searchsorted(starts, np.flatnonzero(buffer == 0)))
        hashes, counts = self._pad_short(hashes, counts)
        return self._join_words(hashes, counts)

    def _hash_words(self, buffer: NDArray[np.uint8]) -> tuple[_U64, NDArray[np.int64]]:
        """Of each word a hash that does not hang on its place, from prefix sums of a polynomial."""
        self._grow(len(buffer))
        is_word = buffer > 32
        edges = np.flatnonzero(is_word[1:] != is_word[:-1]) + 1
        starts, ends = edges[0::2], edges[1::2]
        prefix = np.zeros(len(buffer) + 1, np.uint64)
        np.cumsum(buffer * self._powers[: len(buffer)], out=prefix[1:])
        hashes = (prefix[ends] - prefix[starts]) * self._inverses[starts]
        hashes ^= hashes >> _SHIFT_HIGH
        hashes *= _MIX
        hashes ^= hashes >> _SHIFT_LOW
        return hashes, starts

    def _pad_short(self, hashes: _U64, counts: NDArray[np.int64]) -> tuple[_U64, NDArray[np.int64]]:
        if not len(counts) or counts.min() >= self._words:
            return hashes, counts
        wanted = np.maximum(counts, self._words)
        before, after = _offsets(counts), _offsets(wanted)
        padded = np.zeros(after[-1], np.uint64)
        padded[np.arange(len(hashes)) + np.repeat(after[:-1] - before[:-1], counts)] = hashes
        return padded, wanted

    def _join_words(self, hashes: _U64, counts: NDArray[np.int64]) -> tuple[_U64, NDArray[np.int64]]:
        width = len(hashes) - self._words + 1
        shingles = np.zeros(max(width, 0), np.uint64)
        for j in range(self._words):
            shingles ^= shingles >> _SHIFT_HIGH
            shingles += hashes[j : j + width]
            shingles *= _MIX
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


def band_keys(texts: Sequence[str], shingler: Shingler) -> _U64:
    """Keys of the bands of each text's MinHash signature, shape (texts, BANDS)."""
    from rensa import RMinHash

    keys = np.empty((len(texts), BANDS), np.uint64)
    for at in range(0, len(texts), _STEP_ROWS):
        hashes, offsets = shingler(texts[at : at + _STEP_ROWS])
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            hashes, offsets.astype(np.uint64), num_perm=BANDS * BAND_ROWS, seed=_SEED
        )
        signatures = np.asarray(matrix.to_rows(), np.uint64).reshape(-1, BANDS, BAND_ROWS)
        key = np.zeros(signatures.shape[:2], np.uint64)
        for row in range(BAND_ROWS):
            key ^= key >> _SHIFT_HIGH
            key *= _MIX
            key += signatures[:, :, row]
        key *= _MIX
        keys[at : at + _STEP_ROWS] = key ^ (key >> _SHIFT_LOW)
    return keys


def find_candidates(keys: _U64) -> NDArray[np.int64]:
    """Pairs of rows that share a band, shape (pairs, 2), the smaller number first, each once.

    Of the rows that share a key each is paired with the next one and with the first, not with all: many copies of one
    text cost as many pairs, not their square.

    Args:
        keys: Shape (rows, BANDS).
    """
    count = len(keys)
    bits = np.uint64(max(1, int(count - 1).bit_length()))
    low = (np.uint64(1) << bits) - np.uint64(1)
    numbers = np.arange(count, dtype=np.uint64)
    found: list[_U64] = []
    for band in range(keys.shape[1]):
        merged = np.sort((keys[:, band] & ~low) | numbers)
        bucket, row = merged >> bits, merged & low
        follows = np.flatnonzero(bucket[1:] == bucket[:-1])
        if not len(follows):
            continue
        found.append((row[follows] << _SHIFT_HIGH) | row[follows + 1])
        begins = np.flatnonzero(np.concatenate(([True], bucket[1:] != bucket[:-1])))
        first = row[begins[np.searchsorted(begins, follows, side="right") - 1]]
        found.append((first << _SHIFT_HIGH) | row[follows + 1])
    if not found:
        return np.empty((0, 2), np.int64)
    pairs = np.unique(np.concatenate(found))
    return np.stack((pairs >> _SHIFT_HIGH, pairs & np.uint64(0xFFFFFFFF)), axis=1).astype(np.int64)


def jaccard(
    pairs: NDArray[np.int64], texts_of: Callable[[Sequence[int]], list[str]], shingler: Shingler
) -> NDArray[np.float64]:
    """The Jaccard index of the shingle sets of each pair, exact but for collisions of 56-bit hashes."""
    index = np.zeros(len(pairs))
    for at in range(0, len(pairs), _STEP_ROWS):
        step = pairs[at : at + _STEP_ROWS]
        left, right = (_own(*shingler(texts_of(step[:, side].tolist()))) for side in (0, 1))
        both = np.sort(np.concatenate((left, right)))
        shared = _count(both[1:][both[1:] == both[:-1]], len(step))
        index[at : at + len(step)] = shared / (_count(both, len(step)) - shared)
    return index


def cluster(pairs: NDArray[np.int64]) -> dict[int, int]:
    """The smallest row of its cluster for each row that is in a pair."""
    parents: dict[int, int] = {}

    def find(row: int) -> int:
        root = row
        while parents.get(root, root) != root:
            root = parents[root]
        while parents.get(row, row) != row:
            parents[row], row = root, parents[row]
        return root

    for left, right in pairs.tolist():
        a, b = find(left), find(right)
        parents.setdefault(a, a)
        parents.setdefault(b, b)
        parents[max(a, b)] = min(a, b)
    return {row: find(row) for row in list(parents)}


def _own(hashes: _U64, offsets: NDArray[np.int64]) -> _U64:
    """Each text's shingles once, sorted, with the text's number in the low byte: of at most 256 texts."""
    owners = np.repeat(np.arange(len(offsets) - 1, dtype=np.uint64), np.diff(offsets))
    keys = np.sort((hashes & ~_LOW_BYTE) | owners)
    return keys[np.concatenate(([True], keys[1:] != keys[:-1]))]


def _count(keys: _U64, owners: int) -> NDArray[np.int64]:
    return np.bincount((keys & _LOW_BYTE).astype(np.int64), minlength=owners)


def _offsets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _powers(base: int, count: int) -> _U64:
    powers = np.full(count, np.uint64(base))
    powers[0] = 1
    np.multiply.accumulate(powers, out=powers)
    return powers
