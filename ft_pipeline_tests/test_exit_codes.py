"""What `dagster asset materialize` ends with (docs/ci.md), and that a person finds why in what it prints.

That a gate which is not passed ends with 1, and a champion that stays with 0, is seen in `test_end_to_end.py`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.finetuning.lease import hold_device
from ft_pipeline_tests.ci_run import materialize, materialize_command
from ft_pipeline_tests.dagster_server import wait_until
from ft_pipeline_tests.user_project import make_project


@pytest.fixture
def user(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a user's own project."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return make_project(tmp_path / "root", tiny_base, monkeypatch)


def run(user: Path, selection: str, overrides: dict[str, Any] | None = None) -> tuple[int, str]:
    """The exit code, and all that was printed."""
    done = materialize(selection, cwd=user, environment=os.environ, overrides=overrides)
    return done.returncode, done.stdout + done.stderr


def test_what_was_made_ends_with_0(user: Path) -> None:
    code, said = run(user, "raw_dataset")
    assert code == 0, said
    assert re.search(r"raw_dataset \w+: built in", said)


def test_an_asset_whose_input_is_missing_ends_with_1_and_the_command_to_run_stands_alone(user: Path) -> None:
    code, said = run(user, "merged_model")
    assert code == 1
    told = [line for line in said.splitlines() if "Failure: " in line]
    assert len(told) == 2, said  # of the step, and of the run
    for line in told:
        assert line.endswith(
            "Build it first: dagster asset materialize --select '*trained_adapter' -m ft_pipeline.definitions"
        )
    # Where in the code it was found says nothing to a person.
    assert "pipeline.py" not in said
    assert "The above exception" not in said


def test_a_wrong_field_of_the_recipe_ends_with_1(user: Path) -> None:
    code, said = run(user, "raw_dataset", {"training.epocs": 1})
    assert code == 1
    assert "run config: training.epocs: there is no such field; did you mean 'epochs'?" in said


def test_an_asset_that_does_not_exist_ends_with_1(user: Path) -> None:
    code, said = run(user, "trained_model")
    assert code == 1
    assert "no AssetsDefinition objects supply these keys" in said


def test_a_wrong_option_ends_with_2(user: Path) -> None:
    command = [*materialize_command("raw_dataset"), "--fast"]
    done = subprocess.run(command, cwd=user, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "No such option" in done.stderr


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_run_that_ci_cancels_ends_with_1_and_the_next_goes_on_at_its_checkpoint(user: Path, name: str) -> None:
    longer = {"training.epochs": 10, "training.execution.checkpoint_minutes": 0}
    command = materialize_command("*trained_adapter", longer)
    with (user / "log").open("wb") as log, subprocess.Popen(command, cwd=user, stdout=log, stderr=log) as process:
        try:
            checkpoints = user / "data/artifacts/_checkpoints"
            wait_until(
                lambda: process.poll() is not None or list(checkpoints.glob("*/step-*/checkpoint.json")),
                300,
                (user / "log").read_text,
            )
            assert process.poll() is None, (user / "log").read_text()
            process.send_signal(signal.Signals[name])
            assert process.wait(60) == 1
        finally:
            process.kill()
    with hold_device("cpu", lock_dir=user / "locks", timeout_seconds=5, holder="me", tell=lambda _: None):
        pass
    code, said = run(user, "trained_adapter", longer)
    assert code == 0, said
    assert re.search(r"goes on after step \d+ of \d+", said)
