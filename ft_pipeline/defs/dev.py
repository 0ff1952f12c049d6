"""`dagster dev` with the guarded webserver: `python -m ft_pipeline.defs.dev --host 127.0.0.1 ...`, as `make dev` does.

Dagster has no place to plug a guard in. It starts the webserver as a module in a process of its own; here that module
is `webserver.py`, which takes the same arguments.
"""

from collections.abc import Sequence
from typing import Any

import dagster._cli.dev as dagster_dev

from ft_pipeline.errors import ResourceError

_START = "open_ipc_subprocess"
_open = getattr(dagster_dev, _START)  # gone in another Dagster: no page then, rather than one without guard
_ORIGINAL, _GUARDED = "dagster_webserver", "ft_pipeline.defs.webserver"
# What else `dagster dev` starts that way.
_DAEMON = "dagster._daemon"


def guard(command: Sequence[str]) -> list[str]:
    """A command of `dagster dev`'s, with the guarded webserver in the place of Dagster's.

    Raises:
        ResourceError: it is neither the webserver nor the daemon as they are known here.
    """
    guarded = [_GUARDED if part == _ORIGINAL else part for part in command]
    if guarded == list(command) and _DAEMON not in command:
        raise ResourceError(
            f"Dagster must start its webserver as the module {_ORIGINAL}, or the page would have no guard; it starts "
            f"{' '.join(command)}. Use the Dagster of constraints.txt."
        )
    return guarded


def _open_guarded(command: Sequence[str], **options: Any) -> Any:
    return _open(guard(command), **options)


if __name__ == "__main__":
    setattr(dagster_dev, _START, _open_guarded)
    dagster_dev.dev_command()
