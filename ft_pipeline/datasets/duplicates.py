"""Which rows repeat others: exactly, nearly, or across the split, where a repeat would be an answer given away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ft_pipeline.datasets.near_duplicates import Shingler, cluster, find_candidates, jaccard
from ft_pipeline.datasets.sources import TRAINING_SET
from ft_pipeline.datasets.validated import HELD_OUT
from ft_pipeline.recipe import NearDuplicatesSection

# Pairs whose texts are in memory at a time.
_SLAB_PAIRS = 200_000
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


def find_repeats(
    rows: pl.DataFrame, settings: NearDuplicatesSection, texts_of: Callable[[NDArray[np.int64]], dict[int, str]]
) -> Repeats:
    """Find them all.

    - Of equal conversations in one set the first stays.
    - A row of the training sources whose prompt a test set asks is dropped.
    - Of near duplicates in training the first stays; one that is near to a held-out or tested row is dropped. Test sets
      keep what they hold.

    Args:
        rows: The rows that keep the contract: set (split included), key, prompt, bands.
        settings: The recipe's words.
        texts_of: The texts of rows by their numbers.
    """
    count = rows.height
    repeats = Repeats(np.full(count, KEPT, object), np.arange(count), np.ones(count))
    is_tested = ~rows["set"].is_in([TRAINING_SET, HELD_OUT]).to_numpy()
    numbered = rows.select("set", "key", "prompt").with_row_index("row")
    source_set = pl.when(pl.col("set") == HELD_OUT).then(pl.lit(TRAINING_SET)).otherwise(pl.col("set"))
    first = numbered.select(pl.col("row").first().over(source_set, "key"))["row"].to_numpy().astype(np.int64)
    _drop(repeats, np.flatnonzero(first != np.arange(count)), EXACT, first)
    asked = numbered.filter(is_tested).group_by("prompt", maintain_order=True).agg(pl.col("row").first().alias("by"))
    joined = numbered.join(asked, on="prompt", how="left", maintain_order="left")
    by = joined["by"].cast(pl.Int64).fill_null(-1).to_numpy()
    _drop(repeats, np.flatnonzero((by >= 0) & ~is_tested & (repeats.kind == KEPT)), LEAKED, by)
    if settings.enabled and count:
        _find_near(rows, settings, texts_of, repeats, is_tested)
    return repeats


def _drop(repeats: Repeats, which: NDArray[np.int64], kind: str, of: NDArray[np.int64]) -> None:
    repeats.kind[which] = kind
    repeats.of[which] = of[which]


def _find_near(
    rows: pl.DataFrame,
    settings: NearDuplicatesSection,
    texts_of: Callable[[NDArray[np.int64]], dict[int, str]],
    repeats: Repeats,
    is_tested: NDArray[np.bool_],
) -> None:
    kept = np.flatnonzero(repeats.kind == KEPT)
    pairs = kept[find_candidates(rows["bands"].to_numpy()[kept])]
    if not len(pairs):
        return
    index = np.concatenate(
        [_compare(pairs[at : at + _SLAB_PAIRS], texts_of, settings) for at in range(0, len(pairs), _SLAB_PAIRS)]
    )
    near = index >= settings.threshold
    pairs, index = pairs[near], index[near]
    closest: dict[int, float] = {}
    for (left, right), value in zip(pairs.tolist(), index.tolist(), strict=True):
        for row in (left, right):
            closest[row] = max(closest.get(row, 0.0), value)
    members: dict[int, list[int]] = {}
    for row, root in cluster(pairs).items():
        members.setdefault(root, []).append(row)
    is_held_out = (rows["set"] == HELD_OUT).to_numpy()
    for group in members.values():
        _thin_out(sorted(group), repeats, is_tested, is_held_out, closest)


def _compare(
    pairs: NDArray[np.int64], texts_of: Callable[[NDArray[np.int64]], dict[int, str]], settings: NearDuplicatesSection
) -> NDArray[np.float64]:
    texts = texts_of(np.unique(pairs))
    return jaccard(pairs, lambda rows: [texts[row] for row in rows], Shingler(settings.shingle_words))


def _thin_out(
    group: list[int],
    repeats: Repeats,
    is_tested: NDArray[np.bool_],
    is_held_out: NDArray[np.bool_],
    closest: dict[int, float],
) -> None:
    """Of one cluster keep what is tested, else the first held-out row, else the first."""
    guarded = [row for row in group if is_tested[row]] or [row for row in group if is_held_out[row]]
    keeper = guarded[0] if guarded else group[0]
    for row in group:
        if row == keeper or is_tested[row]:
            continue
        crosses = bool(guarded) and not (is_held_out[row] and is_held_out[keeper])
        repeats.kind[row] = LEAKED if crosses else NEAR
        repeats.of[row] = keeper
        repeats.similarity[row] = closest[row]
