"""What a run's configuration may name: Dagster's page can be open to more people than the machine is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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


def read_choice(run_config: Mapping[str, Any], field: str) -> str:
    """What a run's configuration names in a field of the pipeline's resource; empty if it names nothing."""
    found: Any = run_config
    for name in ("resources", "pipeline", "config", field):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else ""
