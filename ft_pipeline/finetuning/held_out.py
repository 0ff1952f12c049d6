"""Loss on rows that are never trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ft_pipeline.finetuning.schedule import Rows
from ft_pipeline.finetuning.step_runner import Batches, StepRunner


@dataclass(frozen=True)
class HeldOut:
    """Rows of the held-out set that the loss is computed on."""

    batches: Batches
    rows: Rows

    @classmethod
    def first_rows(cls, batches: Batches, most: int) -> HeldOut:
        """The first rows that have something to predict."""
        return cls(batches, tuple(row for row, count in enumerate(batches.table.label_counts) if count)[:most])

    def compute_loss(
        self,
        model: Any,
        runner: StepRunner,
        loss_of: Callable[[dict[str, Any], int], Any],
        most_rows: int | None = None,
    ) -> float:
        """Mean loss in nats over the targets, dropout off; in the layout of the training, with less if need be.

        Args:
            model: The model.
            runner: Knows the layout.
            loss_of: A micro-batch's share of the loss, from its tensors and all targets.
            most_rows: Only the first ones.
        """
        import torch

        rows = self.rows[:most_rows]
        targets = self.batches.count_targets(rows)

        def add_losses() -> float:
            parts = self.batches.slice(rows, runner.layout)
            return sum(float(loss_of(self.batches.load(part, runner.layout), targets)) for part in parts)

        model.eval()
        try:
            with torch.no_grad():
                return float(runner.with_less_until_it_fits(model, add_losses))
        finally:
            model.train()
