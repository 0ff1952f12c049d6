"""The whole training stage on a CPU with the plain backend, in processes of their own."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline_tests.finetuning.training_runs import make_request, read_history, start

pytestmark = pytest.mark.slow
_ADAPTER = "adapter_model.safetensors"
_SETTINGS = {"epochs": 2, "backend": "trl"}


@pytest.fixture(scope="module")
def undisturbed(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a training that nobody disturbed, and its figures."""
    request = make_request(tmp_path_factory.mktemp("undisturbed"), tiny_base, _SETTINGS)
    outcome = start(request).finish()
    assert "figures" in outcome, outcome
    return request.out_dir, outcome["figures"]


def test_the_plain_backend_takes_every_planned_step_and_leaves_checkpoints(
    undisturbed: tuple[Path, dict[str, Any]],
) -> None:
    out_dir, figures = undisturbed
    assert figures["backend"] == "trl"
    assert figures["steps"] == figures["planned_steps"]
    assert figures["stepped_down"] is None
    assert (out_dir / "adapter_config.json").is_file()
    assert list((out_dir / "tensorboard").glob("events*"))
    checkpoints = [folder.name for folder in (out_dir.parent / "checkpoints").glob("step-*")]
    assert f"step-{figures['steps']:08}" in checkpoints


@pytest.mark.long
def test_a_run_of_the_plain_backend_killed_at_any_step_ends_with_the_same_adapter(
    undisturbed: tuple[Path, dict[str, Any]], tiny_base: Path, tmp_path: Path
) -> None:
    out_dir, figures = undisturbed
    request = make_request(tmp_path, tiny_base, _SETTINGS)
    run = start(request)
    run.signal_after_step(random.Random().randint(1, figures["steps"] - 3), request.checkpoints, signal.SIGKILL)
    assert run.finish()["status"] == -signal.SIGKILL
    outcome = start(request).finish()
    assert "figures" in outcome, outcome
    assert "goes on after step" in outcome["said"]
    assert (request.out_dir / _ADAPTER).read_bytes() == (out_dir / _ADAPTER).read_bytes()
    steps = [point["step"] for point in read_history(request)]
    assert steps == list(range(1, figures["steps"] + 1))
