"""A measurement in a process of its own: memory comes back with its end, and what Unsloth patches stays there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import click

_MARK = "RESULT "


def report(result: Any) -> None:
    """Say what was measured to whoever called `run_apart`."""
    click.echo(_MARK + json.dumps(result))


def run_apart(module: str, arguments: Sequence[str]) -> Any:
    """Run `python -m module` and wait for its end.

    Returns:
        What it gave to `report`.

    Raises:
        ClickException: it reported nothing; the message holds the end of what it printed.
    """
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    found = [line.removeprefix(_MARK) for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if not found:
        raise click.ClickException(f"{module} {' '.join(arguments)} failed:\n{done.stderr[-4000:]}")
    return json.loads(found[-1])
