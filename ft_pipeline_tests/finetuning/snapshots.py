"""Snapshots of trainings that never were, and what it means that two are the same."""

from __future__ import annotations

from typing import Any

import torch  # noqa: TID253

from ft_pipeline.finetuning.checkpoints import Snapshot

FINGERPRINT = "f1"


def make_snapshot(step: int) -> Snapshot:
    """All of it can be told from the step."""
    weight = torch.full((3, 4), float(step))
    return Snapshot(
        step=step,
        adapter={"lora_A": weight, "lora_B": weight.bfloat16() / 3},
        optimizer={"state": {0: {"step": torch.tensor(float(step)), "exp_avg": weight / 7}}, "param_groups": []},
        scheduler={"last_epoch": step, "_last_lr": [step / 3]},
        rng={"torch": torch.tensor([step % 256], dtype=torch.uint8)},
        progress={"history": [{"step": step, "loss": step / 3}]},
        scaler={"scale": 65536.0 / step, "_growth_tracker": step},
    )


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.contiguous().reshape(-1).view(torch.uint8).equal(other.contiguous().reshape(-1).view(torch.uint8))
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert repr(one) == repr(other)


def assert_whole(snapshot: Snapshot | None) -> int:
    assert snapshot is not None
    for name, value in vars(make_snapshot(snapshot.step)).items():
        assert_same(getattr(snapshot, name), value)
    return snapshot.step
