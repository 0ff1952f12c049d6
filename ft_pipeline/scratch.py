"""A folder for what a stage does not keep.

It ends with the stage. What a killed one has left ends with the next one of the same artifact, or with the store's
sweep. Who opens one holds the artifact's lock, so nobody else uses what is removed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ft_pipeline.store_names import find_folders

_PREFIX = "scratch-"


@contextmanager
def open_scratch(folder: Path) -> Iterator[Path]:
    """A new folder below `folder`, which is made if it is missing; earlier ones are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_scratch(folder)
    # On a network disk a file that is still mapped may stay: no reason to lose a finished training.
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=folder.absolute(), ignore_cleanup_errors=True) as scratch:
        yield Path(scratch)


def find_scratch(folder: Path) -> list[Path]:
    """What killed stages have left below `folder`."""
    return find_folders(folder, f"{_PREFIX}.+")


def remove_scratch(folder: Path) -> None:
    """Remove that."""
    for left in find_scratch(folder):
        shutil.rmtree(left, ignore_errors=True)
