"""What the data report is asked, and the counts of a validated folder that it reads."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ft_pipeline.datasets.sources import TRAINING_SET
from ft_pipeline.datasets.validated import HELD_OUT, STATISTICS_FILE
from ft_pipeline.errors import DatasetError

# The sets that come from the recipe's sources; the others are its test sets.
POOL = (TRAINING_SET, HELD_OUT)


class DataReportRequest(BaseModel):
    """What the stage's process is given.

    Attributes:
        validated: Folder of a validated data set.
        previous: Folder of the one before it; None if there is none.
        out_dir: The artifact's draft folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    validated: Path
    previous: Path | None
    recipe_name: str
    out_dir: Path


class SourceStatistics(BaseModel):
    """What became of one file's rows. `seen` says by which columns its format was recognized."""

    model_config = ConfigDict(frozen=True)

    set: str
    file: str
    format: str
    seen: str
    rows: int
    kept: int
    quarantined: int
    duplicates: int


class Statistics(BaseModel):
    """`statistics.json` of a validated folder. It may hold more than the report needs."""

    model_config = ConfigDict(frozen=True)

    rows: int
    kept: int
    fixed: int
    quarantined: int
    duplicates: int
    sources: tuple[SourceStatistics, ...]
    fixes: dict[str, int]
    warnings: dict[str, int]
    end_of_turn_id: int | None
    truncated_rows: int


def read_statistics(folder: Path) -> Statistics:
    """The counts that the validation wrote.

    Raises:
        DatasetError: the file is missing or is no such file.
    """
    path = folder / STATISTICS_FILE
    try:
        return Statistics.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as err:
        raise DatasetError(
            f"{path}: must be the counts of a validated data set, got: {err}. Validate it again."
        ) from err
