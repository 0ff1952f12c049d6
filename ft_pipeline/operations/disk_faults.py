"""What is said where a backup or a restore cannot read or write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ft_pipeline.disk_space import told_of_disk
from ft_pipeline.errors import ResourceError


@contextmanager
def told_of_faults(purpose: str) -> Iterator[None]:
    """Any `OSError` in the block is an error for people.

    Raises:
        DiskSpaceError: a disk is full.
        ResourceError: something cannot be read or written.
    """
    try:
        with told_of_disk():
            yield
    except OSError as err:
        place = f"{err.filename} " if err.filename else "something of it "
        raise ResourceError(
            f"{purpose} must be read and written, and {place}cannot be: {err.strerror or err}. Name another folder, or "
            "let the user that runs this have it."
        ) from err
