"""fp16: the gradient scaler goes on from a checkpoint, and a training that only skips steps ends."""

from __future__ import annotations

import json
import logging
import math
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch  # noqa: TID253

from ft_pipeline.errors import TrainingError
from ft_pipeline.finetuning.checkpoints import CheckpointStore, Snapshot
from ft_pipeline.finetuning.curves import Curves
from ft_pipeline.finetuning.guards import LossGuard
from ft_pipeline.finetuning.watch import Watch
from ft_pipeline.fingerprint import hash_file
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.recipe import TrainingSection
from ft_pipeline_tests.finetuning.families import Layout
from ft_pipeline_tests.finetuning.snapshots import FINGERPRINT, make_snapshot


def make_scaler(scale: float = 65536.0) -> Any:
    return torch.amp.GradScaler("cpu", init_scale=scale)


def make_watch(folder: Path, steps: int = 100) -> Watch:
    """A watch of a training that never was."""
    job = SimpleNamespace(device=SimpleNamespace(is_gpu=False), settings=TrainingSection())
    runner: Any = SimpleNamespace(
        job=job,
        steps=[()] * steps,
        step_tokens=8,
        layout=Layout(),
        rng=None,
        stepped_down=[],
        require_no_stop=lambda: None,
    )
    return Watch(
        runner=runner,
        guard=LossGuard(4.0),
        curves=Curves(),
        logs=[],
        store=CheckpointStore(folder, FINGERPRINT),
        early_stopping=None,
        reporter=LogReporter(logging.getLogger("training")),
        checkpoint_seconds=math.inf,
        total_tokens=8 * steps,
    )


class FakeTrainer:
    """What a watch asks of TRL's trainer."""

    def __init__(self, scaler: Any) -> None:
        self.model = torch.nn.Linear(2, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda _: 1.0)
        self.accelerator = SimpleNamespace(scaler=scaler, optimizer_step_was_skipped=False)
        self.state = SimpleNamespace(global_step=0)

    def step(self, watch: Watch, *, skipped: bool) -> None:
        self.state.global_step += 1
        self.accelerator.optimizer_step_was_skipped = skipped
        watch(self, {"loss": 1.0, "learning_rate": 0.1, "grad_norm": math.nan if skipped else 1.0})


def load_scaler(scaler: Any, snapshot: Snapshot) -> None:
    """As the trainer does when it goes on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ft_pipeline.finetuning.step_trainer import _define_trainer

        trainer_class = _define_trainer(None, None)  # type: ignore[arg-type]
    trainer = SimpleNamespace(snapshot=snapshot, accelerator=SimpleNamespace(scaler=scaler))
    trainer_class._load_scaler(trainer, None)


def test_the_scaler_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    scaler = make_scaler()
    scaler.load_state_dict(scaler.state_dict() | {"scale": 512.0, "_growth_tracker": 37})
    watch = make_watch(tmp_path)
    watch.save(FakeTrainer(scaler))
    snapshot = watch.store.load_latest()
    assert snapshot is not None
    again = make_scaler()
    load_scaler(again, snapshot)
    assert again.state_dict() == scaler.state_dict()
    assert again.state_dict()["scale"] == 512.0


def test_a_training_without_a_scaler_is_kept_and_goes_on_without_one(tmp_path: Path) -> None:
    watch = make_watch(tmp_path)
    watch.save(FakeTrainer(None))
    snapshot = watch.store.load_latest()
    assert snapshot is not None
    assert snapshot.scaler == {}
    load_scaler(None, snapshot)


def test_a_checkpoint_from_before_scalers_were_kept_is_read(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, FINGERPRINT)
    folder = store.save(make_snapshot(3))
    state = json.loads((folder / "state.json").read_text())
    state["parts"]["dict"] = [part for part in state["parts"]["dict"] if part[0] != "scaler"]
    (folder / "state.json").write_text(json.dumps(state))
    header = json.loads((folder / "checkpoint.json").read_text())
    path = folder / "state.json"
    header["files"]["state.json"] = {"size_bytes": path.stat().st_size, "sha256": hash_file(path)}
    (folder / "checkpoint.json").write_text(json.dumps(header))
    snapshot = store.load_latest()
    assert snapshot is not None
    assert snapshot.scaler == {}
    scaler = make_scaler()
    load_scaler(scaler, snapshot)
    assert scaler.get_scale() == 65536.0


def test_steps_that_are_skipped_until_the_scale_fits_are_no_error(tmp_path: Path) -> None:
    watch, trainer = make_watch(tmp_path), FakeTrainer(make_scaler())
    for _ in range(2):
        for _ in range(16):
            trainer.step(watch, skipped=True)
        trainer.step(watch, skipped=False)


def test_a_training_that_only_skips_steps_ends_with_rule_value_place_and_remedy(tmp_path: Path) -> None:
    watch, trainer = make_watch(tmp_path), FakeTrainer(make_scaler(0.5))
    trainer.step(watch, skipped=False)
    for _ in range(16):
        trainer.step(watch, skipped=True)
    with pytest.raises(
        TrainingError,
        match=r"at most 16 optimizer steps in a row may be skipped because gradients overflow in fp16, got 17 at step "
        r"18, with a loss scale of 0\.5: .*Train on a GPU with bf16",
    ):
        trainer.step(watch, skipped=True)


def test_a_short_training_without_a_single_step_is_an_error_too(tmp_path: Path) -> None:
    watch, trainer = make_watch(tmp_path, steps=3), FakeTrainer(make_scaler())
    for _ in range(2):
        trainer.step(watch, skipped=True)
    with pytest.raises(TrainingError, match=r"at most 2 optimizer steps in a row .* got 3 at step 3"):
        trainer.step(watch, skipped=True)


def test_skipped_steps_are_counted_on_after_a_checkpoint(tmp_path: Path) -> None:
    watch, trainer = make_watch(tmp_path), FakeTrainer(make_scaler())
    for _ in range(16):
        trainer.step(watch, skipped=True)
    watch.save(trainer)
    snapshot = watch.store.load_latest()
    assert snapshot is not None
    other = make_watch(tmp_path)
    other.restore(snapshot.progress)
    with pytest.raises(TrainingError, match="got 17 at step 17"):
        trainer.step(other, skipped=True)
    older = {name: value for name, value in snapshot.progress.items() if name != "skipped_steps"}
    other.restore(older)
    assert other.skipped_steps == 0
