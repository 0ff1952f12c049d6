"""What validated_dataset is asked for, and what it holds. It imports little, for those who only pass it on."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from pydantic import BaseModel, ConfigDict

from ft_pipeline.datasets.formats import Message
from ft_pipeline.recipe import DatasetSection

TRAIN_FILE, EVALUATION_FILE, QUARANTINE_FILE = "train.parquet", "evaluation.parquet", "quarantine.parquet"
HELD_OUT = "held_out"


class ValidateRequest(BaseModel):
    """What the stage's process is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    raw_rows: Path
    base: Path
    settings: DatasetSection
    out_dir: Path


def sample_conversations(path: Path, most: int = 64) -> tuple[tuple[Message, ...], ...]:
    """The first conversations of a validated file, for checks that need real ones."""
    frame = pl.read_parquet(path, columns=["messages"], n_rows=most)
    return tuple(tuple(messages) for messages in frame["messages"].to_list())


def read_row_lengths(path: Path) -> list[int]:
    """Tokens of each row of a validated file."""
    lengths: list[int] = pl.read_parquet(path, columns=["input_ids"])["input_ids"].list.len().to_list()
    return lengths
