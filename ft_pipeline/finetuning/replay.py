"""Trains on all rows that are new and on a share of the older ones, where the recipe says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ft_pipeline.finetuning.job import Replay, TrainRequest
from ft_pipeline.processes.reporter import Reporter

_ROWS_FILE = "replayed.parquet"


def choose_rows(request: TrainRequest, reporter: Reporter) -> TrainRequest:
    """The request with the rows that are to be trained on, which lie beside the checkpoints as long as those do."""
    if request.replay is None:
        return request
    rows = pl.scan_parquet(request.rows, glob=False)
    is_older = _find_older(rows, request.replay.older)
    is_chosen = ~is_older
    is_chosen[_draw(np.flatnonzero(is_older), request.replay)] = True
    path = request.checkpoints / _ROWS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    numbered = rows.with_row_index("number").filter(pl.col("number").is_in(np.flatnonzero(is_chosen).tolist()))
    numbered.drop("number").sink_parquet(path)
    new, older = int((~is_older).sum()), int(is_older.sum())
    reporter.info(
        f"trains on {new} new rows and on {int(is_chosen.sum()) - new} of {older} older ones "
        f"(retraining.replay_share {request.replay.share:g})"
    )
    return request.model_copy(update={"rows": path})


def _find_older(rows: pl.LazyFrame, older: Path) -> NDArray[np.bool_]:
    """Which rows are those of the data set before, by what they say."""
    known = pl.scan_parquet(older, glob=False).select("key").collect()["key"]
    return rows.select(pl.col("key").is_in(known.implode())).collect()["key"].to_numpy()


def _draw(numbers: NDArray[np.int64], replay: Replay) -> NDArray[np.int64]:
    """The share of them, rounded up; others each time the data grows, the same each time a run is repeated."""
    count = int(np.ceil(len(numbers) * replay.share))
    return np.random.default_rng(replay.seed).choice(numbers, size=count, replace=False)
