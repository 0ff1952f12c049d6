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

# Texts are in memory at a time up to about so many bytes, by the length of some of them; of those that are joined also
# up to so many rows.
_TEXT_BYTES = 192 << 20
_SAMPLE_ROWS = 512
_JOINED_ROWS = 8192
# Pairs that one thread compares at a time.
_SHARE_PAIRS = 5000
# So many first rows of a crowded bucket are compared with all others in it.
_LEADERS = 3
# Rows may come back after each join. After so many they go with what they are near to.
_MOST_JOINS = 12


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
    if not len(signatures):
        return Nearest(np.empty(0, np.int64), np.empty(0))
    pairs, crowds = find_candidates(signatures)
    pairs = pairs[agree(signatures, pairs, settings.threshold)]
    crowded = np.unique(np.concatenate(crowds)) if crowds else np.empty(0, np.int64)
    search = _Search(signatures, texts_of, np.union1d(pairs, crowded), settings)
    search.compare(pairs)
    nearest = search.settle(fixed)
    if not crowds:
        return nearest
    for leader in range(_LEADERS):
        search.compare_leaders(crowds, nearest.of == np.arange(len(signatures)), leader)
        nearest = search.settle(fixed)
    joined = np.empty(0, np.int64)
    for _ in range(_MOST_JOINS):
        stays = crowded[nearest.of[crowded] == crowded]
        if np.isin(stays, joined).all():
            return nearest
        # Some rows are back that were not joined with the others: what they were near to went itself.
        search.join(stays)
        joined, nearest = stays, search.settle(fixed)
    return search.settle(fixed, np.setdiff1d(crowded, joined))


class _Search:
    """Finds pairs that reach the threshold, and remembers them.

    Args:
        signatures: Of all rows.
        texts_of: Texts of rows by their numbers.
        wanted: The rows whose texts will be asked for.
        settings: The recipe's words.
    """

    def __init__(
        self, signatures: Signatures, texts_of: TextsOf, wanted: NDArray[np.int64], settings: NearDuplicatesSection
    ) -> None:
        self._signatures = signatures
        self._settings = settings
        self._found: list[tuple[Pairs, NDArray[np.float64]]] = []
        self._rows_at_once = _count_fitting(texts_of, wanted)
        self._texts_of = texts_of
        if len(wanted) <= self._rows_at_once:
            texts = texts_of(wanted)
            self._texts_of = lambda rows: {row: texts[row] for row in rows.tolist()}

    def compare(self, pairs: Pairs) -> None:
        """Remember those of some pairs that reach the threshold."""
        slab = max(1, self._rows_at_once // 2)
        for at in range(0, len(pairs), slab):
            some = pairs[at : at + slab]
            index = self._index(some)
            reaches = index >= self._settings.threshold
            self._found.append((some[reaches], index[reaches]))

    def compare_leaders(self, crowds: list[NDArray[np.int64]], stays: NDArray[np.bool_], leader: int) -> None:
        """Compare one of the first rows that stay in each crowded bucket with all that stay behind it."""
        pairs = [_pair_first(crowd[stays[crowd]], leader) for crowd in crowds]
        joined = np.unique(np.concatenate(pairs), axis=0)
        self.compare(joined[agree(self._signatures, joined, self._settings.threshold)])

    def join(self, rows: NDArray[np.int64]) -> None:
        """Find all pairs among some rows."""
        shingler, slab = Shingler(self._settings.shingle_words), min(_JOINED_ROWS, self._rows_at_once)
        self.compare(find_alike(rows, self._texts_of, shingler, self._settings.threshold, slab))

    def settle(self, fixed: int, doubtful: NDArray[np.int64] | None = None) -> Nearest:
        """Who stays, as far as pairs are known.

        Args:
            fixed: So many of the first rows stay in any case.
            doubtful: Rows that were not compared with all others: they go also if what they are near to went.
        """
        count = len(self._signatures)
        of, similarity = np.arange(count), np.ones(count)
        is_doubtful = np.zeros(count, bool)
        if doubtful is not None:
            is_doubtful[doubtful] = True
        for (first, second), index in self._near_pairs():
            if second >= fixed and of[second] == second and (of[first] == first or is_doubtful[second]):
                of[second], similarity[second] = of[first], index
        return Nearest(of, similarity)

    def _near_pairs(self) -> Iterable[tuple[tuple[int, int], float]]:
        """All pairs found, by their first row and then their second."""
        if not self._found:
            return []
        pairs = np.concatenate([pairs for pairs, _ in self._found])
        index = np.concatenate([index for _, index in self._found])
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        return zip(map(tuple, pairs[order].tolist()), index[order].tolist(), strict=True)

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


def _count_fitting(texts_of: TextsOf, rows: NDArray[np.int64]) -> int:
    """How many texts may be in memory at a time, by the length of some of them."""
    sample = texts_of(rows[:: max(1, len(rows) // _SAMPLE_ROWS)])
    return int(_TEXT_BYTES * max(1, len(sample)) // max(1, sum(map(len, sample.values()))))


def _pair_first(rows: NDArray[np.int64], leader: int) -> Pairs:
    """The row at a place paired with all behind it."""
    others = rows[leader + 1 :]
    return np.stack((np.broadcast_to(rows[leader : leader + 1], others.shape), others), axis=1)


def _count(keys: U64, owners: int) -> NDArray[np.int64]:
    return np.bincount(owner_of(keys), minlength=owners)
