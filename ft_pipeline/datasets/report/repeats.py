"""Rows that were left out because they repeat another: how many of each kind, and the largest clusters side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ft_pipeline.datasets.report.findings import place, read_messages, write_out
from ft_pipeline.datasets.validated import DUPLICATES_FILE, EVALUATION_FILE, TRAIN_FILE

KINDS = ("exact", "near", "leaked")
_CLUSTERS, _REPEATS_SHOWN = 5, 3
_Origin = tuple[str, int]


@dataclass(frozen=True)
class Repeat:
    """A row that was left out; similarity from 0 to 1."""

    place: str
    similarity: float
    text: str


@dataclass(frozen=True)
class Cluster:
    """A row that stayed, and those that repeat it.

    Attributes:
        text: The row that stayed; None if it is in neither file, because it repeats another itself.
        rows: How many repeat it.
        repeats: The most alike of them.
    """

    place: str
    text: str | None
    rows: int
    repeats: tuple[Repeat, ...]


@dataclass(frozen=True)
class Repeats:
    """What was left out as a repetition.

    Attributes:
        counts: Rows of each kind: exact, near, leaked.
        clusters: Of each kind the rows that are repeated most.
    """

    counts: dict[str, int]
    clusters: dict[str, list[Cluster]]


def find_repeats(folder: Path) -> Repeats:
    """Count the repetitions and choose the largest clusters of each kind."""
    scan = pl.scan_parquet(folder / DUPLICATES_FILE, glob=False)
    counted = dict(scan.group_by("kind").len().collect(engine="streaming").iter_rows())
    kinds = [*KINDS, *sorted(set(counted) - set(KINDS))]
    return Repeats(
        {kind: counted.get(kind, 0) for kind in kinds},
        {kind: _find_clusters(folder, scan.filter(pl.col("kind") == kind)) for kind in kinds if counted.get(kind)},
    )


def _find_clusters(folder: Path, scan: pl.LazyFrame) -> list[Cluster]:
    groups = scan.group_by("of_file", "of_line").len().collect(engine="streaming")
    largest = groups.sort("len", "of_file", "of_line", descending=[True, False, False]).head(_CLUSTERS)
    texts = _read_kept(folder, ((file, line) for file, line, _ in largest.iter_rows()))
    return [
        Cluster(place(file, line), texts.get((file, line)), rows, _read_repeats(scan, file, line))
        for file, line, rows in largest.iter_rows()
    ]


def _read_repeats(scan: pl.LazyFrame, file: str, line: int) -> tuple[Repeat, ...]:
    mine = scan.filter((pl.col("of_file") == file) & (pl.col("of_line") == line))
    columns = ("similarity", "source_file", "source_line", "row")
    # A cluster may have millions of rows: the first of them stand for all.
    first = mine.select(columns).head(1000).collect(engine="streaming")
    best = first.sort("similarity", "source_file", "source_line", descending=[True, False, False])
    return tuple(
        Repeat(place(name, at), similarity, read_messages(row))
        for similarity, name, at, row in best.head(_REPEATS_SHOWN).iter_rows()
    )


def _read_kept(folder: Path, origins: Iterable[_Origin]) -> dict[_Origin, str]:
    wanted = set(origins)
    files, lines = sorted({file for file, _ in wanted}), sorted({line for _, line in wanted})
    found: dict[_Origin, str] = {}
    for name in (TRAIN_FILE, EVALUATION_FILE):
        near = pl.scan_parquet(folder / name, glob=False).filter(
            pl.col("source_file").is_in(files) & pl.col("source_line").is_in(lines)
        )
        rows = near.select("source_file", "source_line", "messages").collect(engine="streaming")
        found |= {(file, line): write_out(messages) for file, line, messages in rows.iter_rows()}
    return {origin: text for origin, text in found.items() if origin in wanted}
