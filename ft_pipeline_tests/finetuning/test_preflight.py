"""What is found out before the device is held."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from ft_pipeline.datasets.validated import read_row_lengths
from ft_pipeline.errors import DiskSpaceError, ResourceError, TrainingError
from ft_pipeline.finetuning import preflight
from ft_pipeline.finetuning.architecture import read_architecture
from ft_pipeline.finetuning.disk_need import count_disk_bytes
from ft_pipeline.finetuning.job import Job, TrainRequest
from ft_pipeline.finetuning.memory import Layout, count_trainable
from ft_pipeline.finetuning.preflight import examine, plan
from ft_pipeline.finetuning.shapes import SHAPES
from ft_pipeline.recipe import EarlyStoppingSection, TrainingSection
from ft_pipeline_tests.finetuning.training_runs import make_request, write_rows

_TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 320,
}


@pytest.fixture
def request_(tmp_path: Path) -> TrainRequest:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text(json.dumps(_TINY))
    return make_request(tmp_path, tmp_path / "base", {})


def count_needed(request: TrainRequest) -> int:
    found = examine(request)
    tokens = sum(found.lengths) + sum(read_row_lengths(request.held_out))
    return count_disk_bytes(found.architecture, request.settings, "adamw_torch", tokens)


def leave_free(size_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size_bytes))


def with_execution(request: TrainRequest, **changes: Any) -> TrainRequest:
    execution = request.settings.execution.model_copy(update=changes)
    return request.model_copy(update={"settings": request.settings.model_copy(update={"execution": execution})})


# Rows


def test_rows_without_a_learned_token_are_refused(request_: TrainRequest) -> None:
    write_rows(request_.rows, 60, masked=True)
    with pytest.raises(
        TrainingError, match=r"must have at least one token that is learned, got none in .*rows\.parquet: every label"
    ):
        examine(request_)


def test_the_longest_row_is_one_that_goes_through_the_model(request_: TrainRequest) -> None:
    held_out = pl.read_parquet(request_.held_out)
    longest = max(read_row_lengths(request_.rows))
    test_row = held_out.head(1).with_columns(
        pl.lit("a_test").alias("set"),
        *(pl.lit([7] * 500, pl.List(pl.Int32)).alias(it) for it in ("input_ids", "labels")),
    )
    # The last of the held-out rows, where early stopping tries only the first.
    untried = test_row.with_columns(pl.lit("held_out").alias("set"), pl.lit(0.9).alias("position"))
    pl.concat([held_out, test_row]).write_parquet(request_.held_out)
    assert examine(request_).longest_row_tokens == longest
    pl.concat([held_out, test_row, untried]).write_parquet(request_.held_out)
    assert examine(request_).longest_row_tokens == 500
    stopping = request_.settings.model_copy(update={"early_stopping": EarlyStoppingSection(max_rows=8)})
    found = examine(request_.model_copy(update={"settings": stopping}))
    assert (found.longest_row_tokens, len(found.held_out)) == (longest, 8)


# The plan, and a layout that is taken over


def make_plan(request: TrainRequest, progress: dict[str, Any] | None = None) -> tuple[Job, list[str]]:
    found, told = examine(request), list[str]()
    return plan(found, found.device, request, request.out_dir, progress=progress, tell=told.append), told


def make_progress(request: TrainRequest, layout: Layout, *, is_gpu: bool) -> dict[str, Any]:
    execution = request.settings.execution.model_dump(mode="json")
    return {"layout": asdict(layout), "execution": execution, "is_gpu": is_gpu}


def test_notes_of_the_plan_are_told(request_: TrainRequest) -> None:
    (request_.base / "config.json").write_text(json.dumps(_TINY | {"max_position_embeddings": 8}))
    assert "rows of 21 tokens are longer than the base's context of 8" in make_plan(request_)[1]


@pytest.mark.parametrize("change", [{}, {"max_loss_jump": 9.0}, {"trackers": ("wandb",)}, {"checkpoint_minutes": 1.0}])
def test_a_layout_is_taken_over_unless_another_is_asked_for(
    request_: TrainRequest, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "require_trackers", lambda _: None)
    planned = make_plan(request_)[0].plan.layout
    earlier = replace(planned, row_tokens=planned.row_tokens + 1)
    progress = make_progress(request_, earlier, is_gpu=False)
    assert make_plan(with_execution(request_, **change), progress)[0].plan.layout == earlier
    asked = with_execution(request_, micro_batch_tokens=21)
    assert make_plan(asked, progress)[0].plan.layout == make_plan(asked)[0].plan.layout


def test_the_layout_of_another_kind_of_device_is_not_taken_over(request_: TrainRequest) -> None:
    planned = make_plan(request_)[0].plan.layout
    packed = replace(planned, packing=True)
    assert make_plan(request_, make_progress(request_, packed, is_gpu=True))[0].plan.layout == planned
    without = make_progress(request_, packed, is_gpu=True)
    del without["is_gpu"]  # of an older checkpoint
    assert make_plan(request_, without)[0].plan.layout == planned


# Disk


@pytest.mark.parametrize(
    ("optimizer", "state"), [("adamw_torch", 8), ("adamw_8bit", 2.03125), ("paged_adamw_8bit", 2.03125)]
)
def test_the_disk_holds_three_checkpoints_the_adapter_and_a_copy_of_the_rows(optimizer: str, state: float) -> None:
    architecture, training = read_architecture(SHAPES["llama-3.1-8b"]), TrainingSection()
    count = count_trainable(architecture, training)
    assert count_disk_bytes(architecture, training, optimizer, 1000) == round(count * (3 * (4 + state) + 4) + 8000)


def test_early_stopping_keeps_best_adapters_beside() -> None:
    architecture = read_architecture(SHAPES["llama-3.1-8b"])
    plain, stopping = TrainingSection(), TrainingSection(early_stopping=EarlyStoppingSection())
    more = count_disk_bytes(architecture, stopping, "adamw_torch", 0) - count_disk_bytes(
        architecture, plain, "adamw_torch", 0
    )
    assert more == 3 * 4 * count_trainable(architecture, plain)


def test_a_disk_one_byte_too_small_for_the_checkpoints_is_refused(
    request_: TrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = count_needed(request_)
    leave_free(needed, monkeypatch)
    examine(request_)
    leave_free(needed - 1, monkeypatch)
    with pytest.raises(
        DiskSpaceError,
        match=r"a training with its checkpoints and its adapter needs .* of disk in .*checkpoints, .*Free",
    ):
        examine(request_)


def test_checkpoints_that_are_there_need_no_more_disk(request_: TrainRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = count_needed(request_)
    (request_.checkpoints / "step-00000003").mkdir(parents=True)
    (request_.checkpoints / "step-00000003/state.safetensors").write_bytes(bytes(100))
    leave_free(needed - 100, monkeypatch)
    examine(request_)


# Trackers


def test_a_tracker_that_does_not_take_us_ends_the_training_before_the_device_is_held(
    request_: TrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ft_pipeline.finetuning import trainer

    def refuse(names: Any) -> None:
        assert names == ("wandb",)
        raise ResourceError("wandb does not take us")

    monkeypatch.setattr(preflight, "require_trackers", refuse)
    execution = request_.settings.execution.model_copy(update={"trackers": ("wandb",)})
    settings = request_.settings.model_copy(update={"execution": execution})
    with pytest.raises(ResourceError, match="wandb does not take us"):
        trainer.train_adapter(request_.model_copy(update={"settings": settings}), reporter=None)  # type: ignore[arg-type]
    assert not request_.gpu.lock_dir.exists()
