"""Early stopping keeps the best adapter, also of a training that is cut off in the middle of an evaluation."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.finetuning.job import TrainRequest
from ft_pipeline_tests.finetuning.training_runs import make_request, read_history, start

pytestmark = pytest.mark.slow
_ADAPTER = "adapter_model.safetensors"
# No checkpoint but those that early stopping or a stop brings.
_PATIENT = {
    "execution": {"checkpoint_minutes": 60.0},
    "early_stopping": {"evaluate_every_share": 0.2, "patience": 5},
}
_DIVERGING = {
    "epochs": 8,
    "learning_rate": 0.05,
    "execution": {"checkpoint_minutes": 0.0, "max_loss_jump": 1000.0},
    "early_stopping": {"evaluate_every_share": 0.05, "patience": 2, "max_rows": 5},
}


def tell_losses(request: TrainRequest) -> list[tuple[float, ...]]:
    """Step, loss and, where it was computed, held-out loss of each point."""
    return [
        tuple(point[name] for name in ("step", "loss", "held_out_loss") if name in point)
        for point in read_history(request)
    ]


@pytest.fixture(scope="module")
def undisturbed(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainRequest, dict[str, Any]]:
    request = make_request(tmp_path_factory.mktemp("undisturbed"), tiny_base, _PATIENT)
    outcome = start(request).finish()
    assert "figures" in outcome, outcome
    return request, outcome["figures"]


def test_it_ends_the_training_and_keeps_the_best_adapter(tiny_base: Path, tmp_path: Path) -> None:
    request = make_request(tmp_path, tiny_base, _DIVERGING)
    outcome = start(request).finish()
    assert "figures" in outcome, outcome
    assert outcome["figures"]["steps"] < outcome["figures"]["planned_steps"]
    tried = [point["held_out_loss"] for point in read_history(request) if "held_out_loss" in point]
    assert outcome["figures"]["held_out_loss"] == pytest.approx(min(tried), rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("which", ["second", "last"])
def test_a_run_cancelled_in_an_evaluation_ends_as_an_undisturbed_one(
    undisturbed: tuple[TrainRequest, dict[str, Any]], tiny_base: Path, tmp_path: Path, which: str
) -> None:
    request = make_request(tmp_path, tiny_base, _PATIENT)
    outcome = start(request, f"be_asked_to_stop_in_the_{which}_evaluation").finish()
    assert outcome["error"] == "StageCancelled", outcome
    outcome = start(request).finish()
    assert "goes on after step" in outcome["said"]
    assert tell_losses(request) == tell_losses(undisturbed[0])
    assert (request.out_dir / _ADAPTER).read_bytes() == (undisturbed[0].out_dir / _ADAPTER).read_bytes()
    for name in ("steps", "final_loss", "held_out_loss", "trained_tokens"):
        assert outcome["figures"][name] == undisturbed[1][name]


@pytest.mark.long
def test_a_run_killed_before_the_artifact_knows_its_steps_when_it_goes_on(tiny_base: Path, tmp_path: Path) -> None:
    request = make_request(tmp_path, tiny_base, _DIVERGING)
    assert start(request, "die_before_the_artifact").finish()["status"] == -signal.SIGKILL
    outcome = start(request).finish()
    assert "figures" in outcome, outcome
    assert 0 < outcome["figures"]["steps"] < outcome["figures"]["planned_steps"]
    assert outcome["figures"]["steps"] == read_history(request)[-1]["step"]
