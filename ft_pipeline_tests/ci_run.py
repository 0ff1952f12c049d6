"""`dagster asset materialize`, as continuous integration runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def materialize_command(selection: str, overrides: Mapping[str, Any] | None = None) -> list[str]:
    """The command line, in this environment's Python."""
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "--select", selection]
    command += ["-m", "ft_pipeline.definitions"]
    if overrides:
        command += ["--config-json", json.dumps({"resources": {"pipeline": {"config": {"overrides": overrides}}}})]
    return command


def materialize(
    selection: str, *, cwd: Path, environment: Mapping[str, str], overrides: Mapping[str, Any] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        materialize_command(selection, overrides),
        cwd=cwd,
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
