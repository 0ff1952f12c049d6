"""Which rows repeat others: exactly, nearly, or across the split, where a repeat would be an answer given away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ft_pipeline.datasets.near_duplicates import find_nearest
from ft_pipeline.datasets.set_join import TextsOf
from ft_pipeline.datasets.sources import TRAINING_SET
from ft_pipeline.datasets.validated import HELD_OUT
from ft_pipeline.recipe import NearDuplicatesSection

KEPT, EXACT, NEAR, LEAKED = "", "exact", "near", "leaked"
_TESTED, _HELD_OUT, _TRAINED = range(3)
_PLACE_BITS = np.uint64(40)


@dataclass(frozen=True)
class Repeats:
    """What became of each row.

    Attributes:
        kind: `exact`, `near` or `leaked` for rows that are dropped, empty for the others.
        of: The row that it repeats; its own number for the others.
        similarity: Jaccard index of the two; 1 for exact ones.
    """

    kind: NDArray[np.object_]
    of: NDArray[np.int64]
    similarity: NDArray[np.float64]


def find_repeats(rows: pl.DataFrame, settings: NearDuplicatesSection, texts_of: TextsOf) -> Repeats:
    """Find them all.

    - Of equal conversations in one set the first stays; of those of the training sources, the first held-out one.
    - A row goes that asks what a test set asks, and a training row that asks what a held-out row asks, which happens
      where groups decide on the side.
    - Of near duplicates in training the first stays; one that is near to a held-out or tested row is dropped. Test sets
      keep what they hold.

    Args:
        rows: The rows that keep the contract: set (split included), key, prompt, signature.
        settings: The recipe's words.
        texts_of: The texts of rows by their numbers.
    """
    count = rows.height
    repeats = Repeats(np.full(count, KEPT, object), np.arange(count), np.ones(count))
    rank = _rank(rows["set"])
    first = _find_equal(rows, rank)
    _drop(repeats, np.flatnonzero(first != np.arange(count)), EXACT, first)
    by = _find_asking(rows["prompt"], rank, repeats.kind == KEPT)
    _drop(repeats, np.flatnonzero((by >= 0) & (repeats.kind == KEPT) & (rank[by] < rank)), LEAKED, by)
    if settings.enabled and count:
        _find_near(rows["signature"], settings, texts_of, repeats, rank)
    return repeats


def _rank(sets: pl.Series) -> NDArray[np.int8]:
    """Who stays before whom."""
    held_out, trained = (sets == HELD_OUT).to_numpy(), (sets == TRAINING_SET).to_numpy()
    return np.where(trained, _TRAINED, np.where(held_out, _HELD_OUT, _TESTED)).astype(np.int8)


def _find_equal(rows: pl.DataFrame, rank: NDArray[np.int8]) -> NDArray[np.int64]:
    """For each row the one of the same source set that stays for all that are equal to it."""
    source_set = pl.when(pl.col("set") == HELD_OUT).then(pl.lit(TRAINING_SET)).otherwise(pl.col("set"))
    place = pl.Series("place", (rank.astype(np.uint64) << _PLACE_BITS) | np.arange(len(rank), dtype=np.uint64))
    placed = rows.select("set", "key").with_columns(place)
    first = placed.select(pl.col("place").min().over(source_set, "key")).to_series().to_numpy()
    return (first & ((np.uint64(1) << _PLACE_BITS) - np.uint64(1))).astype(np.int64)


def _find_asking(prompts: pl.Series, rank: NDArray[np.int8], stays: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each row the first that stays and asks the same: tested, or else held out; -1 where none does."""
    numbered = pl.DataFrame({"prompt": prompts}).with_row_index("by")
    guards = [numbered.filter((rank == guard) & stays) for guard in (_TESTED, _HELD_OUT)]
    asked = pl.concat(guards).unique("prompt", keep="first", maintain_order=True)
    joined = numbered.select("prompt").join(asked, on="prompt", how="left", maintain_order="left")
    return joined["by"].cast(pl.Int64).fill_null(-1).to_numpy()


def _drop(repeats: Repeats, which: NDArray[np.int64], kind: str, of: NDArray[np.int64]) -> None:
    repeats.kind[which] = kind
    repeats.of[which] = of[which]


def _find_near(
    signatures: pl.Series,
    settings: NearDuplicatesSection,
    texts_of: TextsOf,
    repeats: Repeats,
    rank: NDArray[np.int8],
) -> None:
    """Rows stay by rank, and each as they come."""
    kept = np.flatnonzero(repeats.kind == KEPT)
    kept = kept[np.lexsort((kept, rank[kept]))]

    def read(numbers: NDArray[np.int64]) -> dict[int, bytes]:
        texts = texts_of(np.sort(kept[numbers]))
        return {number: texts[row] for number, row in zip(numbers.tolist(), kept[numbers].tolist(), strict=True)}

    nearest = find_nearest(signatures.to_numpy()[kept], int((rank[kept] == _TESTED).sum()), read, settings)
    gone = np.flatnonzero(nearest.of != np.arange(len(kept)))
    which, of = kept[gone], kept[nearest.of[gone]]
    repeats.kind[which] = np.where(rank[of] < rank[which], LEAKED, NEAR)
    repeats.of[which] = of
    repeats.similarity[which] = nearest.similarity[gone]
