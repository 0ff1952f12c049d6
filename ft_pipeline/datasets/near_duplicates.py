"""Which rows say nearly the same as a row that stays, by the exact Jaccard index of their shingles.

Candidates come from MinHash signatures. Where many rows share a band, because all of them hold the same long text or
are copies of one, each is first compared with the first rows of its bucket, which makes short work of copies, and what
is left is joined by its rare shingles.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ft_pipeline.datasets.parallel import map_ahead
from ft_pipeline.datasets.set_join import TextsOf, find_alike
from ft_pipeline.datasets.shingles import STEP_ROWS, U64, Shingler, owner_of
from ft_pipeline.datasets.signatures import Pairs, Signatures, agree, find_candidates
from ft_pipeline.recipe import NearDuplicatesSection

# Pairs whose texts are in memory at a time, and rows whose texts are kept there.
_SLAB_PAIRS = 100_000
_SHARE_PAIRS = 5000
_MOST_KEPT = 200_000
# So many first rows of a crowded bucket are compared with all others in it.
_LEADERS = 3
# Rows whose leader went itself are looked at again, so often.
_MOST_SEARCHES = 5


@dataclass(frozen=True)
class Nearest:
    """What each row is near to.

    Attributes:
        of: A row before it that stays; its own number where it stays itself.
        similarity: Jaccard index of the two.
    """

    of: NDArray[np.int64]
    similarity: NDArray[np.float64]


def find_nearest(signatures: Signatures, fixed: int, texts_of: TextsOf, settings: NearDuplicatesSection) -> Nearest:
    """Go through rows in their order and keep those that are near to none that was kept before.

    Args:
        signatures: Of all rows.
        fixed: So many of the first rows stay whatever they are near to.
        texts_of: Texts of rows by their numbers.
        settings: The recipe's words.
    """
    pairs, crowds = find_candidates(signatures)
    pairs = pairs[agree(signatures, pairs, settings.threshold)]
    crowded = np.unique(np.concatenate([np.empty(0, np.int64), *crowds]))
    search = _Search(signatures, _keep_texts(texts_of, np.union1d(pairs, crowded)), settings)
    search.compare(pairs)
    nearest = _settle(search, len(signatures), fixed)
    seen = np.empty(0, np.int64)
    for _ in range(_MOST_SEARCHES):
        stays = crowded[nearest.of[crowded] == crowded]
        # A row may stay after all, because the one that it is near to went itself.
        if np.isin(stays, seen).all():
            break
        seen = search.look_into(crowds, stays)
        nearest = _settle(search, len(signatures), fixed)
    return nearest


class _Search:
    """Finds pairs that reach the threshold, and remembers them."""

    def __init__(self, signatures: Signatures, texts_of: TextsOf, settings: NearDuplicatesSection) -> None:
        self._signatures = signatures
        self._texts_of = texts_of
        self._settings = settings
        self._found: list[tuple[Pairs, NDArray[np.float64]]] = []

    def near_pairs(self) -> Iterable[tuple[tuple[int, int], float]]:
        """All pairs found, by their first row and then their second."""
        if not self._found:
            return []
        pairs = np.concatenate([pairs for pairs, _ in self._found])
        index = np.concatenate([index for _, index in self._found])
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        return zip(map(tuple, pairs[order].tolist()), index[order].tolist(), strict=True)

    def compare(self, pairs: Pairs) -> Pairs:
        """Those of some pairs that reach the threshold."""
        near = [np.empty((0, 2), np.int64)]
        for at in range(0, len(pairs), _SLAB_PAIRS):
            some = pairs[at : at + _SLAB_PAIRS]
            index = self._index(some)
            reaches = index >= self._settings.threshold
            self._found.append((some[reaches], index[reaches]))
            near.append(some[reaches])
        return np.concatenate(near)

    def look_into(self, crowds: list[NDArray[np.int64]], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Look for pairs within crowded buckets, among some rows of them.

        Returns:
            The rows that are known to be near to none before them, or to which.
        """
        is_active = np.zeros(len(self._signatures), bool)
        is_active[rows] = True
        for leader in range(_LEADERS):
            pairs = [_pair_first(crowd[is_active[crowd]], leader) for crowd in crowds]
            joined = np.unique(np.concatenate([np.empty((0, 2), np.int64), *pairs]), axis=0)
            near = self.compare(joined[agree(self._signatures, joined, self._settings.threshold)])
            is_active[near[:, 1]] = False
        left = rows[is_active[rows]]
        shingler = Shingler(self._settings.shingle_words)
        self.compare(find_alike(left, self._texts_of, shingler, self._settings.threshold))
        return left

    def _index(self, pairs: Pairs) -> NDArray[np.float64]:
        texts = self._texts_of(np.unique(pairs))
        shares = [pairs[at : at + _SHARE_PAIRS] for at in range(0, len(pairs), _SHARE_PAIRS)]
        return np.concatenate(list(map_ahead(lambda share: jaccard(share, texts, self._settings), shares)))


def jaccard(pairs: Pairs, texts: dict[int, bytes], settings: NearDuplicatesSection) -> NDArray[np.float64]:
    """The Jaccard index of the shingle sets of each pair, exact but for collisions of 56-bit hashes."""
    shingler = Shingler(settings.shingle_words)
    index = np.zeros(len(pairs))
    for at in range(0, len(pairs), STEP_ROWS):
        step = pairs[at : at + STEP_ROWS]
        left, right = (shingler.own([texts[row] for row in step[:, side].tolist()]) for side in (0, 1))
        both = np.sort(np.concatenate((left, right)))
        shared = _count(both[1:][both[1:] == both[:-1]], len(step))
        index[at : at + len(step)] = shared / (_count(both, len(step)) - shared)
    return index


def _keep_texts(texts_of: TextsOf, rows: NDArray[np.int64]) -> TextsOf:
    """A reader of the texts of some rows that reads them once, if they are not too many."""
    if len(rows) > _MOST_KEPT:
        return texts_of
    texts = texts_of(rows)
    return lambda _: texts


def _settle(search: _Search, count: int, fixed: int) -> Nearest:
    of, similarity = np.arange(count), np.ones(count)
    for (first, second), index in search.near_pairs():
        if of[first] == first and of[second] == second and second >= fixed:
            of[second], similarity[second] = first, index
    return Nearest(of, similarity)


def _pair_first(rows: NDArray[np.int64], leader: int) -> Pairs:
    """The row at a place paired with all behind it."""
    others = rows[leader + 1 :]
    return np.stack((np.broadcast_to(rows[leader : leader + 1], others.shape), others), axis=1)


def _count(keys: U64, owners: int) -> NDArray[np.int64]:
    return np.bincount(owner_of(keys), minlength=owners)
