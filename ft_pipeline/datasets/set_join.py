"""All pairs of many texts whose shingle sets may reach a Jaccard index: none is missed, whatever else they share.

Banding is blind where rows share a long text that is always the same: all of them fall into the same buckets. Here a
pair is found by its rare shingles. Prefix filtering as in Xiao, Wang, Lin and Yu 2008, "Efficient similarity joins for
near duplicate detection": with shingles in one order, rarest first, two sets that are alike enough share one among the
first few of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ft_pipeline.datasets.shingles import STEP_ROWS, U64, Shingler, owner_of
from ft_pipeline.datasets.signatures import Pairs, pack_pairs, unpack_pairs

TextsOf = Callable[[NDArray[np.int64]], dict[int, bytes]]
# Pairs before repetitions are removed.
_SLAB_PAIRS = 4_000_000
# Shingles are counted by a part of their hash: a count may be too high, which costs time, never a pair.
_COUNTERS = 1 << 22
_BYTE = np.uint64(8)
_SLACK = 1e-9


def find_alike(rows: NDArray[np.int64], texts_of: TextsOf, shingler: Shingler, threshold: float, slab: int) -> Pairs:
    """Pairs of rows, the smaller number first, each once; among them all that reach the threshold.

    Args:
        rows: Their numbers.
        texts_of: Their texts, by number.
        shingler: Makes the sets.
        threshold: Jaccard index.
        slab: Texts that are in memory at a time.
    """
    counts = np.zeros(_COUNTERS, np.uint32)
    for _, keys in _read_sets(rows, texts_of, shingler, slab):
        counter, times = np.unique(_counter_of(keys), return_counts=True)
        counts[counter] += times.astype(np.uint32)
    parts = [_take_first(at, keys, counts, threshold) for at, keys in _read_sets(rows, texts_of, shingler, slab)]
    shingle, row, size, is_short = (np.concatenate([part[i] for part in parts]) for i in range(4))
    order = np.argsort(shingle, kind="stable")
    joined = list(_join(shingle[order], row[order], size[order], is_short[order].astype(bool), threshold))
    pairs = unpack_pairs(np.concatenate([np.empty(0, np.uint64), *joined]))
    return np.sort(rows[pairs], axis=1)


def _read_sets(rows: NDArray[np.int64], texts_of: TextsOf, shingler: Shingler, slab: int) -> Iterator[tuple[int, U64]]:
    """The owned shingles of some texts at a time, and the position of the first of them in `rows`."""
    for start in range(0, len(rows), slab):
        numbers = rows[start : start + slab]
        texts = texts_of(numbers)
        for at in range(0, len(numbers), STEP_ROWS):
            yield start + at, shingler.own([texts[number] for number in numbers[at : at + STEP_ROWS].tolist()])


def _counter_of(keys: U64) -> NDArray[np.int64]:
    return ((keys >> _BYTE) % np.uint64(_COUNTERS)).astype(np.int64)


def _take_first(
    start: int, keys: U64, counts: NDArray[np.uint32], threshold: float
) -> tuple[U64, NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Of each set its rarest shingles, as many as a set may have before it shares one with a set that is alike.

    Returns:
        Shingle, position of its row, size of its set, and whether it is also within the shorter prefix that does where
        the other set is not smaller.
    """
    owner, rarity = owner_of(keys), counts[_counter_of(keys)]
    order = np.lexsort((keys, rarity, owner))
    keys, owner, rarity = keys[order], owner[order], rarity[order]
    sizes = np.bincount(owner)
    size = sizes[owner]
    place = np.arange(len(keys)) - (np.cumsum(sizes) - sizes)[owner]
    long = size - np.ceil(threshold * size - _SLACK) + 1
    short = size - np.ceil(2 * threshold / (1 + threshold) * size - _SLACK) + 1
    # What stands once in all sets is shared by none.
    wanted = (place < long) & (rarity > 1)
    return keys[wanted] >> _BYTE, owner[wanted] + start, size[wanted], (place < short)[wanted]


def _join(
    shingle: U64, row: NDArray[np.int64], size: NDArray[np.int64], is_short: NDArray[np.bool_], threshold: float
) -> Iterator[NDArray[np.uint64]]:
    """Packed pairs of rows that share a shingle, which is in the short prefix of the smaller set."""
    short = np.flatnonzero(is_short)
    first = np.searchsorted(shingle[short], shingle, side="left")
    mates = np.searchsorted(shingle[short], shingle, side="right") - first
    cuts = np.flatnonzero(np.diff(np.cumsum(mates) // _SLAB_PAIRS)) + 1
    for some in np.split(np.arange(len(mates)), cuts):
        count = mates[some]
        left = np.repeat(some, count)
        step = np.arange(len(left)) - np.repeat(np.cumsum(count) - count, count)
        right = short[np.repeat(first[some], count) + step]
        is_size = (size[right] <= size[left]) & (size[right] >= threshold * size[left] - _SLACK)
        fits = is_size & (row[left] != row[right])
        pairs = np.sort(np.stack((row[left][fits], row[right][fits])), axis=0).astype(np.uint64)
        yield np.unique(pack_pairs(*pairs))
