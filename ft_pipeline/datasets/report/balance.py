"""Which rows are on which side: rows of each set, and of each source the share that is held out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ft_pipeline.datasets.report.request import POOL, SourceStatistics, Statistics
from ft_pipeline.datasets.sources import TRAINING_SET
from ft_pipeline.datasets.validated import EVALUATION_FILE, HELD_OUT, TRAIN_FILE


@dataclass(frozen=True)
class SourceBalance:
    """One source file: what became of its rows, and how they were split.

    Attributes:
        held_out_share: Of the kept rows; None for a test set's file, and where no row was kept.
    """

    counts: SourceStatistics
    training_rows: int
    held_out_rows: int
    held_out_share: float | None

    @property
    def in_pool(self) -> bool:
        """Rows of it are trained on or held out; it is no test set's file."""
        return self.counts.set in POOL


def balance_sources(folder: Path, statistics: Statistics) -> list[SourceBalance]:
    """The sources in the order of the statistics."""
    counted: dict[tuple[str, str], int] = {}
    for file in (TRAIN_FILE, EVALUATION_FILE):
        scan = pl.scan_parquet(folder / file, glob=False).filter(pl.col("set").is_in(POOL))
        groups = scan.group_by("set", "source_file").len().collect(engine="streaming")
        counted |= {(name, source): rows for name, source, rows in groups.iter_rows()}
    balances = []
    for source in statistics.sources:
        sides = [counted.get((name, source.file), 0) if source.set in POOL else 0 for name in (TRAINING_SET, HELD_OUT)]
        share = sides[1] / sum(sides) if sum(sides) else None
        balances.append(SourceBalance(source, sides[0], sides[1], share))
    return balances
