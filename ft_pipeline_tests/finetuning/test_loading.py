"""A base that does not fit while it is loaded is one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: TID253

from ft_pipeline.errors import MemoryBudgetError
from ft_pipeline.finetuning import trainer
from ft_pipeline.finetuning.architecture import read_architecture
from ft_pipeline.finetuning.backends import BACKENDS
from ft_pipeline.finetuning.device import Device
from ft_pipeline.finetuning.job import Job
from ft_pipeline.finetuning.loading import told_when_short
from ft_pipeline.finetuning.planner import RowLengths, plan_training
from ft_pipeline.finetuning.shapes import SHAPES
from ft_pipeline.recipe import TrainingSection

_GIB = 2**30
_SPILLED = (
    "Some modules are dispatched on the CPU or the disk. Make sure you have enough GPU RAM to fit the quantized model."
)


def make_job(*, load_in_4bit: bool = True, limit_gib: int | None = None) -> Job:
    settings = TrainingSection(load_in_4bit=load_in_4bit)
    card = Device("GPU-1", "NVIDIA Card", free_bytes=30 * _GIB, total_bytes=40 * _GIB)
    plan = plan_training(
        read_architecture(SHAPES["llama-3.1-8b"]), settings, RowLengths.of([100] * 50), 30 * _GIB, "gpu"
    )
    return Job(Path("base"), settings, card, plan, 100, Path("scratch"), limit_gib and limit_gib * _GIB)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore"), "CUDA out of memory"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), "CUDA error: out of memory"),
        (MemoryError(), "MemoryError"),
        (ValueError(_SPILLED), "Some modules are dispatched on the CPU"),
    ],
)
def test_short_memory_is_told_with_the_figures_and_what_to_change(error: Exception, words: str) -> None:
    with pytest.raises(MemoryBudgetError) as raised, told_when_short(make_job(load_in_4bit=False, limit_gib=20)):
        raise error
    told = str(raised.value)
    assert told.startswith(f"the base must fit NVIDIA Card while it is loaded, and does not: {words}")
    assert "take about 14.96 GiB, 30.00 GiB were free before, gpu.vram_limit_gib allows 20.00. Free it, raise" in told
    assert told.endswith("raise gpu.vram_limit_gib, set training.load_in_4bit: true or take a smaller base.")
    assert "\n" not in told


def test_only_what_can_be_changed_is_named() -> None:
    with (
        pytest.raises(MemoryBudgetError, match=r"30\.00 GiB were free before\. Free it or take a smaller base\.$"),
        told_when_short(make_job()),
    ):
        raise MemoryError


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(ValueError, match=r"^no such file$"), told_when_short(make_job()):
        raise ValueError("no such file")


def test_the_trainer_loads_its_base_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def prepare_environment(self, job: Job) -> None: ...

        def load(self, job: Job) -> Any:  # noqa: ARG002
            raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setitem(BACKENDS, "unsloth", Full())
    nothing: Any = None
    with pytest.raises(MemoryBudgetError, match="the base must fit NVIDIA Card"):
        trainer._assemble(make_job(), nothing, nothing, nothing, nothing)
