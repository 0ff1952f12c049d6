"""What raw_dataset is asked for."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ft_pipeline.datasets.sources import SourceFile


class ParseRequest(BaseModel):
    """What the stage's process is given; `earlier` are folders of earlier raw data sets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[SourceFile, ...]
    earlier: tuple[Path, ...]
    out_dir: Path
