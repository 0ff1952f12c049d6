"""Stops when the loss on held-out rows no longer falls, and keeps the adapter of the best evaluation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ft_pipeline.durable import sync
from ft_pipeline.finetuning.checkpoints import capture_trainable, restore_trainable
from ft_pipeline.finetuning.held_out import HeldOut
from ft_pipeline.finetuning.step_runner import StepRunner
from ft_pipeline.recipe import EarlyStoppingSection


class EarlyStopping:
    """The best adapter so far lies in a file of its own, written before the checkpoint that names it.

    Args:
        settings: The recipe's.
        held_out: What the loss is computed on.
        folder: Where the best adapter is kept.
    """

    def __init__(self, settings: EarlyStoppingSection, held_out: HeldOut, folder: Path) -> None:
        self._settings = settings
        self._held_out = held_out
        self._folder = folder
        self.best_loss, self.best_step, self._stale, self._tried = math.inf, 0, 0, 0

    @property
    def is_over(self) -> bool:
        """As many evaluations as the recipe allows have brought nothing."""
        return self._stale >= self._settings.patience

    def is_due(self, step: int, steps: int) -> bool:
        """Whether the held-out rows are tried after this step: at even distances and at the end."""
        every = max(1, round(self._settings.evaluate_every_share * steps))
        return step != self._tried and (step % every == 0 or step == steps)

    def evaluate(self, trainer: Any, runner: StepRunner, step: int) -> float:
        """The held-out loss now; the adapter is kept if it is the best."""
        loss = self._held_out.compute_loss(trainer.model, runner, trainer.loss_of)
        self._tried = step
        if loss < self.best_loss - self._settings.min_improvement:
            self._keep(trainer.model, step)
            self.best_loss, self.best_step, self._stale = loss, step, 0
        else:
            self._stale += 1
        return loss

    def load_best(self, model: Any) -> None:
        """Put the best adapter into the model."""
        from safetensors.torch import load_file

        if self.best_step:
            restore_trainable(model, load_file(self._file(self.best_step)))

    def state(self) -> dict[str, Any]:
        """What `restore` takes; JSON-able."""
        best_loss = self.best_loss if math.isfinite(self.best_loss) else None
        return {"best_loss": best_loss, "best_step": self.best_step, "stale": self._stale, "tried": self._tried}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]
        self.best_step, self._stale, self._tried = state["best_step"], state["stale"], state["tried"]

    def _keep(self, model: Any, step: int) -> None:
        from safetensors.torch import save_file

        self._folder.mkdir(parents=True, exist_ok=True)
        draft = self._folder / "best.draft"
        save_file(capture_trainable(model), draft)
        sync(draft)
        draft.rename(self._file(step))
        # The last checkpoint may still name the best one before this.
        for file in set(self._folder.glob("best-*.safetensors")) - {self._file(step), self._file(self.best_step)}:
            file.unlink()

    def _file(self, step: int) -> Path:
        return best_adapter_file(self._folder, step)


def best_adapter_file(folder: Path, step: int) -> Path:
    """Where the best adapter lies if it is that of this step."""
    return folder / f"best-{step:08}.safetensors"
