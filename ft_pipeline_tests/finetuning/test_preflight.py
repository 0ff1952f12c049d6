"""What is found out before the device is held."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ft_pipeline.datasets.validated import read_row_lengths
from ft_pipeline.errors import DiskSpaceError, ResourceError
from ft_pipeline.finetuning import preflight
from ft_pipeline.finetuning.architecture import read_architecture
from ft_pipeline.finetuning.disk_need import count_disk_bytes
from ft_pipeline.finetuning.job import TrainRequest
from ft_pipeline.finetuning.memory import count_trainable
from ft_pipeline.finetuning.preflight import examine
from ft_pipeline.finetuning.shapes import SHAPES
from ft_pipeline.recipe import EarlyStoppingSection, TrainingSection
from ft_pipeline_tests.finetuning.training_runs import make_request

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
    assert not request_.lock_dir.exists()
