"""All new rows are trained on, and a share of those that were trained on before."""

from __future__ import annotations

import logging
from pathlib import Path

import polars as pl
import pytest

from ft_pipeline.finetuning.job import Replay, TrainRequest
from ft_pipeline.finetuning.replay import choose_rows
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline_tests.finetuning.training_runs import make_request

REPORTER = LogReporter(logging.getLogger(__name__))


def write(path: Path, keys: list[str]) -> Path:
    ids = [[number, number + 1] for number in range(len(keys))]
    frame = pl.DataFrame({"key": keys, "input_ids": ids, "labels": ids, "source_file": "a", "source_line": 1})
    frame.write_parquet(path)
    return path


@pytest.fixture
def request_of(tmp_path: Path) -> TrainRequest:
    """Ten older rows in other places than before, among five new ones."""
    request = make_request(tmp_path, tmp_path / "base", {})
    write(request.rows, [name for number in range(5) for name in (f"old{number}", f"new{number}", f"old{number + 5}")])
    return request


def choose(request: TrainRequest, share: float, seed: int = 1) -> list[str]:
    older = write(request.out_dir / "older.parquet", [*(f"old{number}" for number in range(10)), "gone"])
    chosen = choose_rows(request.model_copy(update={"replay": Replay(older=older, share=share, seed=seed)}), REPORTER)
    frame = pl.read_parquet(chosen.rows)
    assert frame.columns == ["key", "input_ids", "labels", "source_file", "source_line"]
    return frame["key"].to_list()


def test_without_it_all_rows_are_trained_on(request_of: TrainRequest) -> None:
    assert choose_rows(request_of, REPORTER) is request_of


@pytest.mark.parametrize(("share", "older"), [(0.0, 0), (0.25, 3), (0.5, 5), (1.0, 10)])
def test_every_new_row_and_the_share_of_older_ones_in_their_order(
    request_of: TrainRequest, share: float, older: int
) -> None:
    keys = choose(request_of, share)
    assert [key for key in keys if key.startswith("new")] == [f"new{number}" for number in range(5)]
    assert len(keys) == 5 + older
    every = pl.read_parquet(request_of.rows)["key"].to_list()
    assert keys == [key for key in every if key in keys]


def test_the_choice_is_the_same_again_and_another_for_other_data(request_of: TrainRequest) -> None:
    assert choose(request_of, 0.5) == choose(request_of, 0.5)
    assert len({tuple(choose(request_of, 0.5, seed)) for seed in range(5)}) > 1
