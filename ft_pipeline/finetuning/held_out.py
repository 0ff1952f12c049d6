"""Loss on rows that are never trained on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ft_pipeline.errors import TrainingError
from ft_pipeline.finetuning.memory import Layout
from ft_pipeline.finetuning.schedule import Rows
from ft_pipeline.finetuning.step_runner import Batches, StepRunner


@dataclass(frozen=True)
class HeldOut:
    """Rows of the held-out set that the loss is computed on."""

    batches: Batches
    rows: Rows

    def largest(self, layout: Layout) -> HeldOut:
        """Only those of the micro-batch that takes the most memory."""
        return replace(self, rows=self.batches.find_largest(self.batches.slice(self.rows, layout), layout))

    def compute_loss(
        self,
        model: Any,
        runner: StepRunner,
        loss_of: Callable[[dict[str, Any], int], Any],
    ) -> float:
        """Mean loss in nats over the targets, dropout off; in the layout of the training, with less if need be.

        Args:
            model: The model.
            runner: Knows the layout.
            loss_of: A micro-batch's share of the loss, from its tensors and all targets.

        Raises:
            TrainingError: it is no number.
            StageCancelled: a stop was asked for.
        """
        import torch

        targets = self.batches.count_targets(self.rows)

        def add_losses() -> float:
            total = 0.0
            for part in self.batches.slice(self.rows, runner.layout):
                runner.require_no_stop()
                total += float(loss_of(self.batches.load(part, runner.layout), targets))
            return total

        model.eval()
        try:
            with torch.no_grad():
                loss = float(runner.with_less_until_it_fits(model, add_losses))
        finally:
            model.train()
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of held-out rows must be a finite number, got {loss}. Lower training.learning_rate."
            )
        return loss
