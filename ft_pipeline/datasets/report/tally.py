"""Counts of whole numbers, and the distances between two of them. Exact, however many rows there are."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


@dataclass
class Tally:
    """How often each number from 0 was seen: `counts[n]` is how often `n` was.

    Of lengths or of token ids; memory hangs on the largest number, not on how many there are.
    """

    counts: Counts = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, numbers: npt.NDArray[np.integer]) -> None:
        """Count more numbers, none of them below 0."""
        if not numbers.size:
            return
        found = np.bincount(numbers)
        if len(found) > len(self.counts):
            self.counts = np.concatenate([self.counts, np.zeros(len(found) - len(self.counts), np.int64)])
        self.counts[: len(found)] += found

    @property
    def total(self) -> int:
        """How many numbers were counted."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float | None:
        """Their mean; None if there are none."""
        return float(self.counts @ np.arange(len(self.counts))) / self.total if self.total else None

    @property
    def largest(self) -> int | None:
        """The largest of them; None if there are none."""
        return int(np.flatnonzero(self.counts)[-1]) if self.total else None

    def quantile(self, share: float) -> int | None:
        """The smallest number that at least this share of them does not exceed; None if there are none."""
        if not self.total:
            return None
        return int(np.searchsorted(np.cumsum(self.counts), max(1, math.ceil(share * self.total)), side="left"))


def merge(tallies: list[Tally]) -> Tally:
    """All of them counted together."""
    counts = np.zeros(max((len(tally.counts) for tally in tallies), default=0), np.int64)
    for tally in tallies:
        counts[: len(tally.counts)] += tally.counts
    return Tally(counts)


def measure_ks_distance(first: Tally, second: Tally) -> float | None:
    """Kolmogorov-Smirnov distance: the largest gap between the two cumulative distributions, from 0 to 1.

    None if one of them is empty.
    """
    shares = _as_shares(first, second)
    return None if shares is None else float(np.abs(np.cumsum(shares[0]) - np.cumsum(shares[1])).max())


def measure_js_divergence(first: Tally, second: Tally) -> float | None:
    """Jensen-Shannon divergence in bits: 0 for equal shares, 1 for nothing in common (Lin 1991).

    None if one of them is empty.
    """
    shares = _as_shares(first, second)
    if shares is None:
        return None
    middle = (shares[0] + shares[1]) / 2
    halves = [part[part > 0] @ np.log2(part[part > 0] / middle[part > 0]) / 2 for part in shares]
    return max(0.0, float(sum(halves)))


def rank_changes(first: Tally, second: Tally, most: int) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """The numbers whose share rose the most from first to second, and those whose share fell the most.

    Returns:
        Two lists of (number, difference of shares), the largest difference first.
    """
    shares = _as_shares(first, second)
    if shares is None:
        return [], []
    change = shares[1] - shares[0]
    order = np.argsort(change, kind="stable")
    risen = [(int(n), float(change[n])) for n in order[::-1][:most] if change[n] > 0]
    return risen, [(int(n), float(change[n])) for n in order[:most] if change[n] < 0]


def _as_shares(first: Tally, second: Tally) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    if not first.total or not second.total:
        return None
    size = max(len(first.counts), len(second.counts))
    padded = [np.pad(tally.counts, (0, size - len(tally.counts))) / tally.total for tally in (first, second)]
    return padded[0], padded[1]
