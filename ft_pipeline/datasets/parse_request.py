"""What raw_dataset is asked for."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ft_pipeline.datasets.sources import SourceFile


class ParseRequest(BaseModel):
    """What the stage's process is given.

    Attributes:
        earlier: Folders of earlier raw data sets.
        maker: Hash of the versions of all code that parses: parts that other code has made are not taken over.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[SourceFile, ...]
    earlier: tuple[Path, ...]
    maker: str
    out_dir: Path
