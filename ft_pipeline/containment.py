"""What names may lead to.

Those of a run's configuration, for Dagster's page can be open to more people than the machine is; and those in files
that may be of anybody: a manifest, the table of a backup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ft_pipeline.errors import RecipeError


def is_below(name: str) -> bool:
    """Whether a file's name, its parts divided by slashes, leads below whatever folder it is put to."""
    return not {"\\", "\0"}.intersection(name) and not {"", ".", ".."}.intersection(name.split("/"))


def is_inside(path: Path, folders: Sequence[Path]) -> bool:
    """Whether a path lies in one of some folders, links resolved."""
    resolved = path.resolve()
    return any(resolved.is_relative_to(folder.resolve()) for folder in folders)


def require_inside(path: Path, folders: Sequence[Path], field: str) -> Path:
    """The path, which must lie in one of some folders, links resolved.

    Args:
        path: What is named.
        folders: Where it may be.
        field: Of the run's configuration, for the message.

    Raises:
        RecipeError: it is elsewhere.
    """
    if not is_inside(path, folders):
        raise RecipeError(
            f"{field} must lie in {' or '.join(map(str, folders))}, got {path.resolve()}. Only the environment of the "
            "server may name a place elsewhere (FT_PIPELINE_RECIPE, FT_PIPELINE_ARTIFACTS)."
        )
    return path


def read_choice(run_config: Mapping[str, Any], field: str) -> str:
    """What a run's configuration names in a field of the pipeline's resource; empty if it names nothing."""
    found: Any = run_config
    for name in ("resources", "pipeline", "config", field):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else ""
