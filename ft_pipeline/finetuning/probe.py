"""Proves the plan before step 1: the largest micro-batch, forward and backward, and one evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ft_pipeline.finetuning.checkpoints import capture_rng, restore_rng
from ft_pipeline.finetuning.held_out import HeldOut
from ft_pipeline.finetuning.step_runner import StepRunner
from ft_pipeline.finetuning.watch import peak_reserved_bytes

# Slicing every step of a long training would take longer than the probe itself.
_SLICED_STEPS = 2000


def prove_layout(trainer: Any, runner: StepRunner, held_out: HeldOut, tell: Callable[[str], None]) -> None:
    """Run the largest micro-batch with room for the optimizer's state, and one held-out micro-batch.

    What does not fit steps the layout down, as in training. Neither weights nor random generators are changed.

    Raises:
        MemoryBudgetError: the smallest micro-batch does not fit.
    """
    rng, model = capture_rng(), trainer.model
    model.train()

    def prove() -> None:
        reserve = _reserve_optimizer_state(runner)
        parts = (part for step in runner.steps[:_SLICED_STEPS] for part in runner.batches.slice(step, runner.layout))
        rows = runner.batches.find_largest(parts, runner.layout)
        batch = runner.batches.load(rows, runner.layout)
        trainer.add_gradients(batch, runner.batches.count_targets(rows))
        model.zero_grad()
        del reserve

    runner.with_less_until_it_fits(model, prove)
    if held_out.rows:
        held_out.largest(runner.layout).compute_loss(model, runner, trainer.loss_of)
    restore_rng(rng)
    if runner.job.device.is_gpu:
        plan = runner.job.plan
        is_planned = runner.layout == plan.layout
        predicted = f", {plan.memory.reserved_bytes / 2**30:.2f} GiB predicted" if is_planned else ""
        tell(f"the largest micro-batch fits: {peak_reserved_bytes() / 2**30:.2f} GiB reserved{predicted}")


def _reserve_optimizer_state(runner: StepRunner) -> Any:
    import torch

    device = "cuda" if runner.job.device.is_gpu else "cpu"
    return torch.empty(runner.job.plan.memory.optimizer_bytes, dtype=torch.uint8, device=device)
