"""The whole training stage on a CPU, real libraries, in processes of their own."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from ft_pipeline.base_model import read_config
from ft_pipeline.finetuning.architecture import read_architecture
from ft_pipeline.finetuning.disk_need import count_disk_bytes
from ft_pipeline.finetuning.memory import count_trainable
from ft_pipeline.recipe import LoraSection, TrainingSection
from ft_pipeline_tests.finetuning.event_files import read_events
from ft_pipeline_tests.finetuning.training_runs import Run, make_request, read_history, start, write_rows

pytestmark = pytest.mark.slow
_ADAPTER = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def undisturbed(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, object], Path]:
    request = make_request(tmp_path_factory.mktemp("undisturbed"), tiny_base, {"epochs": 2})
    outcome = start(request).finish()
    assert "figures" in outcome, outcome
    return (request.out_dir / _ADAPTER).read_bytes(), outcome["figures"], request.out_dir


def test_a_training_says_what_it_did(undisturbed: tuple[bytes, dict[str, object], Path]) -> None:
    _, figures, out_dir = undisturbed
    assert figures["steps"] == figures["planned_steps"]
    assert figures["stepped_down"] is None
    assert list((out_dir / "tensorboard").glob("events*"))


def test_checkpoints_take_what_was_asked_of_the_disk(
    undisturbed: tuple[bytes, dict[str, object], Path], tiny_base: Path
) -> None:
    checkpoints = undisturbed[2].parent / "checkpoints"
    taken = [sum(file.stat().st_size for file in step.iterdir()) for step in checkpoints.glob("step-*")]
    settings, architecture = TrainingSection(lora=LoraSection(rank=8)), read_architecture(read_config(tiny_base))
    asked = count_disk_bytes(architecture, settings, "adamw_torch", 0)
    adapter = 4 * count_trainable(architecture, settings)
    assert len(taken) == 2
    assert taken == pytest.approx([(asked - adapter) / 3] * 2, rel=0.1)


def test_a_run_killed_at_any_step_ends_with_the_same_adapter(
    undisturbed: tuple[bytes, dict[str, object], Path], tiny_base: Path, tmp_path: Path
) -> None:
    adapter, figures, _ = undisturbed
    request = make_request(tmp_path, tiny_base, {"epochs": 2})
    rng = random.Random()
    step = 0
    for _ in range(2):
        step = rng.randint(step + 1, int(str(figures["steps"])) - 2)
        run = start(request)
        run.signal_after_step(step, request.checkpoints, signal.SIGKILL)
        assert run.finish()["status"] == -signal.SIGKILL
        if step >= int(str(figures["steps"])) - 3:
            break
    outcome = start(request).finish()
    assert "goes on after step" in outcome["said"]
    assert (request.out_dir / _ADAPTER).read_bytes() == adapter
    steps = [point["step"] for point in read_history(request)]
    assert steps == sorted(set(steps))
    assert [step for step, tag, _ in read_events(request.out_dir / "tensorboard") if tag == "training/loss"] == steps
    assert list(request.checkpoints.glob("scratch-*")) == []


def test_a_cancelled_run_keeps_a_checkpoint_and_goes_on(
    undisturbed: tuple[bytes, dict[str, object], Path], tiny_base: Path, tmp_path: Path
) -> None:
    request = make_request(tmp_path, tiny_base, {"epochs": 2})
    run = start(request)
    run.signal_after_step(3, request.checkpoints, signal.SIGTERM)
    outcome = run.finish()
    assert outcome["error"] == "StageCancelled", outcome
    assert start(request).finish()["figures"]["steps"] == undisturbed[1]["steps"]
    assert (request.out_dir / _ADAPTER).read_bytes() == undisturbed[0]


@pytest.mark.long
def test_a_checkpoint_of_another_fingerprint_is_not_taken(tiny_base: Path, tmp_path: Path) -> None:
    request = make_request(tmp_path, tiny_base, {})
    run = start(request)
    run.signal_after_step(2, request.checkpoints, signal.SIGKILL)
    run.finish()
    outcome = start(request.model_copy(update={"fingerprint": "f2"})).finish()
    assert "figures" in outcome, outcome
    assert "goes on after step" not in outcome["said"]


@pytest.mark.long
def test_a_checkpoint_of_another_optimizer_is_passed_over_with_one_warning(
    undisturbed: tuple[bytes, dict[str, object], Path], tiny_base: Path, tmp_path: Path
) -> None:
    request = make_request(tmp_path, tiny_base, {"epochs": 2})
    settings = request.settings.model_copy(update={"optimizer": "adamw_8bit"})
    run = start(request.model_copy(update={"settings": settings}))
    run.signal_after_step(3, request.checkpoints, signal.SIGKILL)
    run.finish()
    outcome = start(request).finish()
    assert "figures" in outcome, outcome
    assert outcome["said"].count("begins anew") == 1
    assert "holds the state of adamw_8bit, and " in outcome["said"]
    assert "goes on after step" not in outcome["said"]
    assert (request.out_dir / _ADAPTER).read_bytes() == undisturbed[0]


def test_short_memory_halves_the_micro_batch_and_keeps_the_rows_of_a_step(
    undisturbed: tuple[bytes, dict[str, object], Path], tiny_base: Path, tmp_path: Path
) -> None:
    settings = {"epochs": 2, "lora": {"rank": 8, "alpha": 16}}
    plain = make_request(tmp_path / "plain", tiny_base, settings)
    short = make_request(tmp_path / "short", tiny_base, settings)
    runs: list[Run] = [start(plain), start(short, "run_short_of_memory")]
    outcomes = [run.finish() for run in runs]
    assert all("figures" in outcome for outcome in outcomes), outcomes
    assert outcomes[1]["figures"]["stepped_down"]
    assert outcomes[1]["figures"]["steps"] == outcomes[0]["figures"]["steps"] == undisturbed[1]["steps"]
    for one, other in zip(read_history(plain), read_history(short), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


def test_a_loss_that_is_no_number_names_the_row(tiny_base: Path, tmp_path: Path) -> None:
    outcome = start(make_request(tmp_path, tiny_base, {}), "turn_the_loss_to_nan").finish()
    assert outcome["error"] == "TrainingError", outcome
    assert "data/rows.jsonl:13 (loss nan)" in outcome["message"], outcome["message"]
    assert outcome["message"].count("nan") == 2  # the step's loss, and the one row's


def test_a_training_that_fails_leaves_its_curves_where_the_log_says(tiny_base: Path, tmp_path: Path) -> None:
    request = make_request(tmp_path, tiny_base, {})
    outcome = start(request, "fail_after_the_third_step").finish()
    assert outcome["error"] == "RuntimeError", outcome
    curves = request.checkpoints / "tensorboard"
    assert str(curves) in outcome["said"]
    assert [step for step, tag, _ in read_events(curves) if tag == "training/loss"] == [1, 2, 3]
    assert not (request.out_dir / "tensorboard").exists()


def test_fewer_rows_than_one_step_are_refused_before_the_device_is_held(tiny_base: Path, tmp_path: Path) -> None:
    tmp_path.mkdir(exist_ok=True)
    write_rows(tmp_path / "rows.parquet", 2)
    outcome = start(make_request(tmp_path, tiny_base, {"effective_batch_tokens": 4096})).finish()
    assert outcome["error"] == "TrainingError"
    assert "must fill one optimizer step" in outcome["message"]
    assert not (tmp_path / "locks").exists()
