"""Where a benchmark's figures go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

RESULTS = Path(__file__).parent / "results"


def write_results(out: Path, name: str, found: Any, table: str) -> None:
    """Write what was measured as `name.json` and its table as `name.md`, and show the table."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(table, encoding="utf-8")
    click.echo(table)
