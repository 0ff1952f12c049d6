"""Where a store keeps what retraining knows of a recipe's data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ft_pipeline.disk_space import told_of_disk
from ft_pipeline.errors import ArtifactError


def recipe_folder(store_root: Path, recipe_name: str) -> Path:
    """The recipe's folder in an artifact store."""
    return store_root / "_retraining" / recipe_name


@contextmanager
def told_of_folder(path: Path) -> Iterator[None]:
    """What keeps the block from using a file there is an error for people.

    Raises:
        ResourceError: the disk is full or read-only.
        ArtifactError: anything else, such as a file in the place of a folder.
    """
    try:
        with told_of_disk():
            yield
    except OSError as err:
        raise ArtifactError(
            f"{err.filename or path} must be there for retraining to read and write, and cannot be used: "
            f"{err.strerror or err}. Move away what is in its place, or give it to the user who runs the pipeline."
        ) from err
