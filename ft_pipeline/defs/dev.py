"""`dagster dev` with the guarded webserver: `python -m ft_pipeline.defs.dev --host 127.0.0.1 ...`, as `make dev` does.

Dagster has no place to plug a guard in. It starts the webserver as a module in a process of its own; here that module
is `webserver.py`, which takes the same arguments.
"""

from collections.abc import Sequence
from typing import Any

import dagster._cli.dev as dagster_dev

_START = "open_ipc_subprocess"
_open = getattr(dagster_dev, _START)  # gone in another Dagster: no page then, rather than one without guard
_ORIGINAL, _GUARDED = "dagster_webserver", "ft_pipeline.defs.webserver"


def _open_guarded(parts: Sequence[str], **options: Any) -> Any:
    return _open([_GUARDED if part == _ORIGINAL else part for part in parts], **options)


if __name__ == "__main__":
    setattr(dagster_dev, _START, _open_guarded)
    dagster_dev.dev_command()
