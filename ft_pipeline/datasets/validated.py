"""What validated_dataset is asked for, and what it holds. It imports little, for those who only pass it on.

train.parquet        rows to train on: messages, input_ids, labels, and where each came from
evaluation.parquet   held-out rows and test sets, in the same columns
quarantine.parquet   rows that break the contract, with reason codes
duplicates.parquet   rows that repeat others
statistics.json      the count of every row that came in
checked/             parts that the next data set can take over
"""

from __future__ import annotations

from pathlib import Path

import polars as pl
from pydantic import BaseModel, ConfigDict

from ft_pipeline.datasets.conversation import TEXT_ROLE, Message
from ft_pipeline.recipe import DatasetSection

TRAIN_FILE, EVALUATION_FILE, QUARANTINE_FILE = "train.parquet", "evaluation.parquet", "quarantine.parquet"
DUPLICATES_FILE, STATISTICS_FILE = "duplicates.parquet", "statistics.json"
HELD_OUT = "held_out"


class ValidateRequest(BaseModel):
    """What the stage's process is given.

    Attributes:
        raw: Folder of the raw data set.
        base: Folder of the base model; None: rows are not tokenized, which only a benchmark wants.
        base_identity: What the base's bytes are.
        maker: Hash of the versions of all code that checks rows: parts that other code has made are not taken over.
        earlier: Folders of earlier validated data sets.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    raw: Path
    base: Path | None
    base_identity: str
    maker: str
    settings: DatasetSection
    earlier: tuple[Path, ...] = ()
    out_dir: Path


def sample_conversations(path: Path, most: int = 64) -> tuple[tuple[Message, ...], ...]:
    """The first conversations of a validated file, for checks that need real ones; plain text and tools left out."""
    rows = pl.scan_parquet(path, glob=False).filter(pl.col("extra").is_null()).select("messages").head(most).collect()
    found = (tuple(messages) for messages in rows["messages"].to_list())
    return tuple(messages for messages in found if messages[0]["role"] != TEXT_ROLE)


def find_held_out(path: Path) -> list[int]:
    """Indices of a file's held-out rows with something to learn, in the order of their split hash; no test sets."""
    has_targets = pl.col("labels").list.slice(1).list.max() >= 0
    rows = pl.scan_parquet(path, glob=False).with_row_index("index").filter((pl.col("set") == HELD_OUT) & has_targets)
    found: list[int] = rows.sort("position", "source_file", "source_line").select("index").collect()["index"].to_list()
    return found


def read_row_lengths(path: Path) -> list[int]:
    """Tokens of each row of a validated file."""
    rows = pl.scan_parquet(path, glob=False).select(pl.col("input_ids").list.len())
    lengths: list[int] = rows.collect()["input_ids"].to_list()
    return lengths
