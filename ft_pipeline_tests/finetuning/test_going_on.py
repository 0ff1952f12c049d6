"""A training that goes on from a checkpoint is the training that was cut off."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch  # noqa: TID253

from ft_pipeline.errors import ArtifactError
from ft_pipeline.finetuning.checkpoints import (
    CheckpointStore,
    Snapshot,
    capture_rng,
    capture_trainable,
    restore_rng,
    restore_trainable,
)
from ft_pipeline_tests.finetuning.snapshots import FINGERPRINT, assert_same

Optimizers = Callable[[Any], Any]


def adamw(parameters: Any) -> Any:
    return torch.optim.AdamW(parameters, lr=1e-2)


def adamw_8bit(parameters: Any) -> Any:
    import bitsandbytes

    return bitsandbytes.optim.AdamW8bit(parameters, lr=1e-2)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", FINGERPRINT)


class TinyTraining:
    """A model with dropout and random rows from all three generators, an optimizer and a falling learning rate."""

    def __init__(self, make_optimizer: Optimizers) -> None:
        torch.manual_seed(1)
        random.seed(2)
        np.random.seed(3)
        # 8-bit states begin at 4,096 elements.
        layers = torch.nn.Linear(64, 64), torch.nn.Dropout(0.3), torch.nn.Linear(64, 8)
        self.model = torch.nn.Sequential(*layers)
        self.optimizer = make_optimizer(self.model.parameters())
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 / (1 + step))

    def step(self) -> None:
        x = torch.randn(4, 64) * random.random() + float(np.random.rand())
        self.model(x).square().mean().backward()
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()

    def take(self, step: int) -> Snapshot:
        optimizer, scheduler = self.optimizer.state_dict(), self.scheduler.state_dict()
        return Snapshot(step, capture_trainable(self.model), optimizer, scheduler, capture_rng(), {})

    def go_on_from(self, snapshot: Snapshot) -> None:
        restore_trainable(self.model, snapshot.adapter)
        self.optimizer.load_state_dict(snapshot.optimizer)
        self.scheduler.load_state_dict(snapshot.scheduler)
        restore_rng(snapshot.rng)


@pytest.mark.parametrize("make_optimizer", [adamw, adamw_8bit])
@pytest.mark.parametrize("cut_after", [1, 4])
def test_a_training_that_goes_on_ends_bit_for_bit_as_an_undisturbed_one(
    store: CheckpointStore, make_optimizer: Optimizers, cut_after: int
) -> None:
    undisturbed = TinyTraining(make_optimizer)
    for _ in range(7):
        undisturbed.step()
    first = TinyTraining(make_optimizer)
    for _ in range(cut_after):
        first.step()
    store.save(first.take(cut_after))
    first.step()

    second = TinyTraining(make_optimizer)
    torch.manual_seed(99)
    snapshot = store.load_latest()
    assert snapshot is not None
    second.go_on_from(snapshot)
    for _ in range(7 - snapshot.step):
        second.step()
    assert_same(second.take(7).adapter, undisturbed.take(7).adapter)
    assert_same(second.optimizer.state_dict(), undisturbed.optimizer.state_dict())
    assert_same(capture_rng(), undisturbed.take(7).rng)


def test_the_generators_draw_the_same_again(store: CheckpointStore) -> None:
    def draw() -> list[float]:
        return [random.gauss(), float(np.random.standard_normal()), float(torch.randn(()))]

    draw()  # each keeps the second number of a pair
    store.save(Snapshot(1, {}, {}, {}, capture_rng(), {}))
    first = draw()
    snapshot = store.load_latest()
    assert snapshot is not None
    restore_rng(snapshot.rng)
    assert draw() == first


def make_peft_model() -> Any:
    from peft import LoraConfig, get_peft_model

    class Net(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = torch.nn.Linear(8, 8), torch.nn.Linear(8, 2)

        def forward(self, x: Any) -> Any:
            return self.head(self.body(x))

    return get_peft_model(Net(), LoraConfig(r=2, target_modules=["body"], use_dora=True, modules_to_save=["head"]))


def test_all_that_is_trained_is_captured_and_nothing_else() -> None:
    captured = capture_trainable(make_peft_model())
    names = {name.removeprefix("base_model.model.") for name in captured}
    assert names == {
        "body.lora_A.default.weight",
        "body.lora_B.default.weight",
        "body.lora_magnitude_vector.default.weight",
        "head.modules_to_save.default.weight",
        "head.modules_to_save.default.bias",
    }


def test_what_is_captured_does_not_change_with_the_model_and_goes_back() -> None:
    model = make_peft_model()
    captured = capture_trainable(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)
    changed = capture_trainable(model)
    assert not any(changed[name].equal(captured[name]) for name in captured)
    restore_trainable(model, captured)
    assert_same(capture_trainable(model), captured)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda it: it.pop("0.bias"), r"0\.bias is not in the checkpoint"),
        (lambda it: it.update(extra=torch.zeros(1)), r"extra is not trained by this model"),
        (
            lambda it: it.update({"0.bias": torch.zeros(9)}),
            r"0\.bias is \[9\] in the checkpoint and \[3\] in the model",
        ),
        (lambda it: it.update({"0.bias": torch.zeros(3).double()}), r"0\.bias is torch\.float64 in the checkpoint"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_and_the_model_stays(
    change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3))
    before = capture_trainable(model)
    other = {name: tensor + 1 for name, tensor in before.items()}
    change(other)
    with pytest.raises(ArtifactError, match=words):
        restore_trainable(model, other)
    assert_same(capture_trainable(model), before)
