"""What a run's configuration may name: Dagster's page can be open to more people than the machine is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ft_pipeline.errors import RecipeError


def require_inside(path: Path, folders: Sequence[Path], field: str) -> Path:
    """The path, which must lie in one of some folders, links resolved.

    Args:
        path: What is named.
        folders: Where it may be.
        field: Of the run's configuration, for the message.

    Raises:
        RecipeError: it is elsewhere.
    """
    resolved = path.resolve()
    if not any(resolved.is_relative_to(folder.resolve()) for folder in folders):
        raise RecipeError(
            f"{field} must lie in {' or '.join(map(str, folders))}, got {resolved}. Only the environment of the "
            "server may name a place elsewhere (FT_PIPELINE_RECIPE, FT_PIPELINE_ARTIFACTS)."
        )
    return path
