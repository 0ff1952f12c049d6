"""Whether the recipe's trackers can be written to, found out before the device is held.

Each is asked in a process of its own, `python -m ft_pipeline.finetuning.tracker_check NAME`: it can be ended if a
server does not answer, and in ours Unsloth is still imported before all else. Nothing is sent but who we are.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence

from ft_pipeline.datasets.sources.redaction import hide_credentials
from ft_pipeline.errors import EnvironmentMismatch, ResourceError

_PATIENCE_SECONDS = 30.0
_MAX_WORDS = 300
_SECRETS = ("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_FIXES: Mapping[str, str] = {
    "wandb": "run `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline",
    "mlflow": "set MLFLOW_TRACKING_URI to a server that answers, with its user and password or token",
}


def require_trackers(names: Sequence[str], patience_seconds: float = _PATIENCE_SECONDS) -> None:
    """Check that these trackers are installed, that their servers answer, and that we are logged in.

    Raises:
        EnvironmentMismatch: some are not installed.
        ResourceError: some do not take us; each is named with what would help.
    """
    missing = [name for name in names if not _is_installed(name)]
    if missing:
        raise EnvironmentMismatch(
            f"training.execution.trackers must be installed, {' and '.join(missing)} cannot be found. Run "
            f"`pip install {' '.join(missing)}`, or leave it out of the recipe."
        )
    faults = [f"{name}: {fault}; {_FIXES[name]}" for name in names if (fault := _ask(name, patience_seconds))]
    if faults:
        raise ResourceError(
            f"training.execution.trackers must take what is logged: {'. '.join(faults)}. Or leave it out of the recipe."
        )


def hide_secrets(text: str) -> str:
    """Without keys that are set in the environment, and without what else a message must not show."""
    for secret in filter(None, map(os.environ.get, _SECRETS)):
        text = text.replace(secret, "***")
    return hide_credentials(text)


def _is_installed(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    # A folder of that name in the working directory, which W&B makes, is a package without a file.
    return spec is not None and spec.origin is not None


def _ask(name: str, patience_seconds: float) -> str:
    """What is wrong, in the tracker's own words; empty if nothing is."""
    command = [sys.executable, "-m", "ft_pipeline.finetuning.tracker_check", name]
    # Not a pipe: a service that the tracker leaves behind would hold it open.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.DEVNULL,
                timeout=patience_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"no answer within {patience_seconds:.0f} s"
        said.seek(0)
        words = said.read().splitlines()
    return "" if done.returncode == 0 else (words or [f"it ended with status {done.returncode}"])[-1]


def _log_in_to_wandb() -> None:
    import wandb

    wandb.login(verify=True)  # asks nobody if W&B is offline or disabled


def _look_into_mlflow() -> None:
    # Its own figures are two minutes, five times.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    import mlflow

    mlflow.search_experiments(max_results=1)


_CHECKS: Mapping[str, Callable[[], None]] = {"wandb": _log_in_to_wandb, "mlflow": _look_into_mlflow}


def _main(name: str) -> int:
    try:
        _CHECKS[name]()
    except Exception as err:  # noqa: BLE001 - the boundary of the process: whatever a tracker raises is told
        words = " ".join(hide_secrets(f"{type(err).__name__}: {err}").split())
        sys.stdout.write(f"\n{words[:_MAX_WORDS]}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
