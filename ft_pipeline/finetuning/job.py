"""What a training is asked for, and what it is once the device is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ft_pipeline.finetuning.device import Device, GpuSettings
from ft_pipeline.finetuning.planner import TrainingPlan
from ft_pipeline.recipe import TrainingSection

HISTORY_FILE = "history.json"


class Replay(BaseModel):
    """Rows that were trained on before, of which only a share is trained on again.

    Attributes:
        older: Parquet of the rows of the data set before.
        seed: Of the choice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    older: Path
    share: float
    seed: int


class TrainRequest(BaseModel):
    """What the stage's process is given.

    Attributes:
        rows: Parquet of the training rows: `input_ids` and `labels`, lists of one length in each row, and where each
            came from.
        held_out: The same of rows that are never trained on.
        gpu: What to train on, held while it trains.
        holder: Who we are, for those who wait for it.
        checkpoints: Folder for what a run that is cut off goes on from.
        fingerprint: Of the adapter that is made: a checkpoint of another one is not taken.
        replay: None: all rows are trained on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Path
    base_name: str
    rows: Path
    held_out: Path
    settings: TrainingSection
    gpu: GpuSettings
    holder: str
    checkpoints: Path
    fingerprint: str
    replay: Replay | None = None
    out_dir: Path


@dataclass(frozen=True)
class Job:
    """One training on one device.

    Attributes:
        max_row_tokens: Tokens of the longest row that goes through the model.
        scratch: Folder for what is not kept.
        vram_limit_bytes: More of the GPU's memory is never taken, what the driver needs included.
    """

    base: Path
    settings: TrainingSection
    device: Device
    plan: TrainingPlan
    max_row_tokens: int
    scratch: Path
    vram_limit_bytes: int | None = None
