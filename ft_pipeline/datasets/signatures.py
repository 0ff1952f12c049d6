"""MinHash signatures of rows, and the pairs of rows that they make likely to be near duplicates.

Banding as in Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4. The signatures are rensa's.
With 8 bands of 3 a pair of a Jaccard index of 0.8 shares a band with a probability of 99.7 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

from ft_pipeline.datasets.parallel import map_ahead
from ft_pipeline.datasets.shingles import MIX, STEP_ROWS, Shingler

_BANDS, _BAND_ROWS = 8, 3
SIGNATURE = _BANDS * _BAND_ROWS
_SEED = 42
# Rows that share a band with so few others are compared with all of them.
_SMALL_BUCKET = 32
# A pair may be passed over unseen by the agreement of its signatures with so small a probability.
_MISS = 1e-3
_SLAB_PAIRS = 10_000
_SHIFT_HIGH = np.uint64(32)
Signatures = NDArray[np.uint16]
Pairs = NDArray[np.int64]


def sign(texts: Sequence[bytes], shingler: Shingler) -> Signatures:
    """The low 16 bits of each text's MinHash values, shape (texts, SIGNATURE)."""
    from rensa import RMinHash

    signed = np.empty((len(texts), SIGNATURE), np.uint16)
    for at in range(0, len(texts), STEP_ROWS):
        hashes, offsets = shingler(texts[at : at + STEP_ROWS])
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            hashes, offsets.astype(np.uint64), num_perm=SIGNATURE, seed=_SEED
        )
        signed[at : at + STEP_ROWS] = np.asarray(matrix.to_rows(), np.uint64).astype(np.uint16)
    return signed


def find_candidates(signatures: Signatures) -> tuple[Pairs, list[NDArray[np.int64]]]:
    """Pairs of rows that share a band, shape (pairs, 2), the smaller number first, each once.

    Returns:
        The pairs; and the rows, ascending, of each bucket that holds too many to compare all with each other.
    """
    count = len(signatures)
    bits = np.uint64(max(1, int(count - 1).bit_length()))
    low = (np.uint64(1) << bits) - np.uint64(1)
    numbers = np.arange(count, dtype=np.uint64)
    found: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
    crowds: list[NDArray[np.int64]] = []

    def sort(band: int) -> NDArray[np.uint64]:
        return np.sort((_band_keys(signatures, band) & ~low) | numbers)

    for merged in map_ahead(sort, range(_BANDS)):
        bucket, row = merged >> bits, merged & low
        begins = np.flatnonzero(np.concatenate(([True], bucket[1:] != bucket[:-1], [True])))
        sizes = np.diff(begins)
        crowds += [row[begins[b] : begins[b + 1]].astype(np.int64) for b in np.flatnonzero(sizes > _SMALL_BUCKET)]
        is_small = np.repeat((sizes > 1) & (sizes <= _SMALL_BUCKET), sizes)
        bucket, row = bucket[is_small], row[is_small]
        for step in range(1, _SMALL_BUCKET):
            mates = np.flatnonzero(bucket[step:] == bucket[:-step])
            found.append(pack_pairs(row[mates], row[mates + step]))
    return unpack_pairs(np.concatenate(found)), crowds


def agree(signatures: Signatures, pairs: Pairs, threshold: float) -> NDArray[np.bool_]:
    """Which pairs have signatures that agree in as many places as those of a Jaccard index of the threshold do."""
    least = _least_agreement(threshold)
    agrees = np.zeros(len(pairs), bool)
    for at in range(0, len(pairs), _SLAB_PAIRS):
        some = pairs[at : at + _SLAB_PAIRS]
        agrees[at : at + len(some)] = (signatures[some[:, 0]] == signatures[some[:, 1]]).sum(axis=1) >= least
    return agrees


def pack_pairs(low: NDArray[np.uint64], high: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Pairs of rows as single numbers, `low << 32 | high`."""
    return (low << _SHIFT_HIGH) | high


def unpack_pairs(packed: NDArray[np.uint64]) -> Pairs:
    """What `pack_pairs` packed, each pair once, sorted; shape (pairs, 2)."""
    pairs = np.unique(packed)
    return np.stack((pairs >> _SHIFT_HIGH, pairs & np.uint64(0xFFFFFFFF)), axis=1).astype(np.int64)


def _band_keys(signatures: Signatures, band: int) -> NDArray[np.uint64]:
    key = np.zeros(len(signatures), np.uint64)
    for place in range(band * _BAND_ROWS, (band + 1) * _BAND_ROWS):
        key = (key << np.uint64(16)) | signatures[:, place]
    return key * MIX


def _least_agreement(threshold: float) -> int:
    """By the binomial distribution: a place agrees with the probability of the Jaccard index."""
    missed = 0.0
    for least in range(SIGNATURE + 1):
        missed += comb(SIGNATURE, least) * threshold**least * (1 - threshold) ** (SIGNATURE - least)
        if missed > _MISS:
            return least
    return SIGNATURE
