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

    - Of equal conversations in one set the first stays.
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
    is_held_out = (rows["set"] == HELD_OUT).to_numpy()
    is_tested = ~rows["set"].is_in([TRAINING_SET, HELD_OUT]).to_numpy()
    numbered = rows.select("set", "key", "prompt").with_row_index("row")
    source_set = pl.when(pl.col("set") == HELD_OUT).then(pl.lit(TRAINING_SET)).otherwise(pl.col("set"))
    first = numbered.select(pl.col("row").first().over(source_set, "key"))["row"].to_numpy().astype(np.int64)
    _drop(repeats, np.flatnonzero(first != np.arange(count)), EXACT, first)
    by = _find_asking(numbered, is_tested, is_held_out)
    is_leak = (by >= 0) & ~is_tested & (is_tested[by] | ~is_held_out) & (repeats.kind == KEPT)
    _drop(repeats, np.flatnonzero(is_leak), LEAKED, by)
    del numbered, first, by
    if settings.enabled and count:
        _find_near(rows["signature"], settings, texts_of, repeats, (is_tested, is_held_out))
    return repeats


def _find_asking(
    numbered: pl.DataFrame, is_tested: NDArray[np.bool_], is_held_out: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """For each row the first that asks the same: of the tested ones, or else of those held out; -1 where none does."""
    guards = [numbered.filter(which).select("prompt", pl.col("row").alias("by")) for which in (is_tested, is_held_out)]
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
    guarded: tuple[NDArray[np.bool_], NDArray[np.bool_]],
) -> None:
    """Rows stay in this order: tested ones, all of them; held-out ones; the others; each as they come."""
    is_tested, is_held_out = guarded
    kept = np.flatnonzero(repeats.kind == KEPT)
    kept = kept[np.lexsort((kept, ~is_held_out[kept], ~is_tested[kept]))]

    def read(numbers: NDArray[np.int64]) -> dict[int, bytes]:
        texts = texts_of(np.sort(kept[numbers]))
        return {number: texts[row] for number, row in zip(numbers.tolist(), kept[numbers].tolist(), strict=True)}

    nearest = find_nearest(signatures.to_numpy()[kept], int(is_tested[kept].sum()), read, settings)
    gone = np.flatnonzero(nearest.of != np.arange(len(kept)))
    which, of = kept[gone], kept[nearest.of[gone]]
    is_leak = is_tested[of] | (is_held_out[of] & ~is_held_out[which])
    repeats.kind[which] = np.where(is_leak, LEAKED, NEAR)
    repeats.of[which] = of
    repeats.similarity[which] = nearest.similarity[gone]
