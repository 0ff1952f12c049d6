"""How a command of this package ends."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ft_pipeline.errors import PipelineError


def run_command(command: Callable[[], None]) -> None:
    """Run it; an error for people ends it by its words alone, with status 1."""
    try:
        command()
    except PipelineError as err:
        sys.stderr.write(f"{err}\n")
        sys.exit(1)
