"""Trackers are asked before the device is held; packages of a few lines stand for the real ones."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ft_pipeline.errors import EnvironmentMismatch, ResourceError
from ft_pipeline.finetuning.tracker_check import require_trackers

Install = Callable[[str, str], None]
_TAKES = "def login(verify):\n    assert verify\n"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a module of that name and text where Python finds it, here and in other processes."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")])))

    def write(name: str, text: str) -> None:
        (folder / f"{name}.py").write_text(text)

    return write


def test_no_trackers_are_fine() -> None:
    require_trackers(())


def test_trackers_that_take_us_are_fine_whatever_they_print(install: Install) -> None:
    install("wandb", "print('wandb: Currently logged in as: somebody')\n" + _TAKES)
    install("mlflow", "def search_experiments(max_results):\n    assert max_results == 1\n")
    require_trackers(("wandb", "mlflow"))


def test_a_tracker_that_is_not_installed_is_told_with_the_command(install: Install) -> None:
    install("wandb", _TAKES)
    with pytest.raises(
        EnvironmentMismatch, match=r"mlflow cannot be found\. Run `pip install mlflow`, or leave it out"
    ):
        require_trackers(("wandb", "mlflow"))


def test_the_folder_that_wandb_leaves_in_the_working_directory_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnvironmentMismatch, match="wandb cannot be found"):
        require_trackers(("wandb",))


def test_every_tracker_that_does_not_take_us_is_named_with_what_would_help(install: Install) -> None:
    install("wandb", "def login(verify):\n    raise ValueError('No API key\\n configured')\n")
    install("mlflow", "def search_experiments(max_results):\n    raise OSError('connection refused')\n")
    with pytest.raises(ResourceError) as raised:
        require_trackers(("wandb", "mlflow"))
    assert str(raised.value) == (
        "training.execution.trackers must take what is logged: wandb: ValueError: No API key configured; run `wandb "
        "login`, or set WANDB_API_KEY, or WANDB_MODE=offline. mlflow: OSError: connection refused; set "
        "MLFLOW_TRACKING_URI to a server that answers, with its user and password or token. Or leave it out of the "
        "recipe."
    )


def test_a_server_that_does_not_answer_is_not_waited_for(install: Install) -> None:
    install("mlflow", "import time\n\ndef search_experiments(max_results):\n    time.sleep(60)\n")
    began = time.monotonic()
    with pytest.raises(ResourceError, match="mlflow: no answer within 1 s; set MLFLOW_TRACKING_URI"):
        require_trackers(("mlflow",), patience_seconds=1.0)
    assert time.monotonic() - began < 30


def test_a_service_that_a_tracker_leaves_behind_is_not_waited_for(install: Install) -> None:
    install(
        "wandb",
        "import subprocess\n\ndef login(verify):\n    subprocess.Popen(['sleep', '5'], start_new_session=True)\n",
    )
    began = time.monotonic()
    require_trackers(("wandb",))
    assert time.monotonic() - began < 4


def test_a_tracker_that_crashes_is_told(install: Install) -> None:
    install("wandb", "import os\n\ndef login(verify):\n    os._exit(7)\n")
    with pytest.raises(ResourceError, match="wandb: it ended with status 7"):
        require_trackers(("wandb",))


def test_no_key_is_told(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "topsecret1")
    install(
        "wandb", "import os\n\ndef login(verify):\n    raise ValueError('bad key ' + os.environ['WANDB_API_KEY'])\n"
    )
    install(
        "mlflow",
        "def search_experiments(max_results):\n    raise OSError('https://me:topsecret2@tracking.example/api fails')\n",
    )
    with pytest.raises(ResourceError, match=r"bad key \*\*\*;.*https://tracking\.example/api fails") as raised:
        require_trackers(("wandb", "mlflow"))
    assert "topsecret" not in str(raised.value)
