"""What happens around an optimizer step: the loss is judged, figures go out, held-out rows tried, a checkpoint kept."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ft_pipeline.errors import TrainingError
from ft_pipeline.finetuning.checkpoints import CheckpointStore, Snapshot, capture_rng, capture_trainable
from ft_pipeline.finetuning.curves import Curves
from ft_pipeline.finetuning.early_stopping import EarlyStopping
from ft_pipeline.finetuning.guards import LossGuard, name_worst_rows
from ft_pipeline.finetuning.optimizers import capture_scaler
from ft_pipeline.finetuning.step_runner import StepRunner
from ft_pipeline.processes.reporter import Reporter

# The loss scale of fp16 begins at 65,536 and halves with each overflow: after 16 it is 1, and nothing is left to lower.
_MAX_SKIPPED_STEPS = 16


@dataclass
class Watch:
    """Looks at each step and keeps what a run that is cut off goes on from.

    Attributes:
        logs: TensorBoard and the recipe's trackers.
        checkpoint_seconds: Time between two checkpoints.
        trained_tokens: Real tokens of the steps so far.
        skipped_steps: Last steps in a row that fp16 has skipped.
        unfinished: Figures of a step that the held-out rows are still to be tried after; None between steps.
    """

    runner: StepRunner
    guard: LossGuard
    curves: Curves
    logs: Sequence[Any]
    store: CheckpointStore
    early_stopping: EarlyStopping | None
    reporter: Reporter
    checkpoint_seconds: float
    total_tokens: int
    trained_tokens: int = 0
    train_seconds: float = 0.0
    skipped_steps: int = 0
    unfinished: dict[str, float] | None = None
    _saved_at: float = field(default_factory=time.monotonic)
    _step_began: float = field(default_factory=time.perf_counter)

    def begin(self) -> None:
        """The training loop starts now."""
        self._step_began = time.perf_counter()

    def judge(self, trainer: Any, index: int, loss: float) -> None:
        """Called with a step's gradients and loss, before they change the weights.

        Raises:
            TrainingError: the loss or the gradient is no number, or the loss jumps; the worst rows are named.
        """
        rows, batches = self.runner.steps[index], self.runner.batches

        def name_rows() -> str:
            return name_worst_rows(losses_by_row(trainer, self.runner, rows), batches.table.place)

        # In fp16 a gradient that overflows is skipped, and the scale is lowered.
        norm = 0.0 if trainer.args.fp16 else gradient_norm(trainer.model)
        self.guard.check(index + 1, loss, norm, name_rows)

    def __call__(self, trainer: Any, logs: dict[str, float]) -> None:
        """Called by the trainer after each step.

        Raises:
            StageCancelled: a stop was asked for.
            TrainingError: fp16 has skipped too many steps in a row.
        """
        step = int(trainer.state.global_step)
        self._count_skipped(trainer.accelerator, step)
        self.unfinished = self._record(step, logs)
        self.finish_step(trainer)
        if step == len(self.runner.steps) or time.monotonic() - self._saved_at >= self.checkpoint_seconds:
            self.save(trainer)
        self.runner.require_no_stop()
        self._step_began = time.perf_counter()

    def finish_step(self, trainer: Any) -> None:
        """Try the held-out rows if they are due, and tell the step's figures.

        A stop in the middle of it leaves the step unfinished, in a checkpoint too: this is called again before the
        training goes on.

        Raises:
            StageCancelled: a stop was asked for.
        """
        if self.unfinished is None:
            return
        record, stopping = dict(self.unfinished), self.early_stopping
        step = int(record["step"])
        if stopping and stopping.is_due(step, len(self.runner.steps)):
            record["held_out_loss"] = stopping.evaluate(trainer, self.runner, step)
            trainer.control.should_training_stop |= stopping.is_over
            self._saved_at = -math.inf
        self.unfinished = None
        self._tell(step, record)

    def save(self, trainer: Any) -> None:
        """Write a checkpoint of the last step whose weights are whole."""
        self.store.save(
            Snapshot(
                step=int(trainer.state.global_step),
                adapter=capture_trainable(trainer.model),
                optimizer=trainer.optimizer.state_dict(),
                scheduler=trainer.lr_scheduler.state_dict(),
                rng=self.runner.rng or capture_rng(),
                progress=self._progress(),
                scaler=capture_scaler(trainer.accelerator.scaler),
            )
        )
        self._saved_at = time.monotonic()

    def restore(self, progress: dict[str, Any]) -> None:
        """Go on where the run that wrote the checkpoint was."""
        self.guard.restore(progress["guard"])
        self.curves.restore(progress["history"])
        for record in progress["history"]:
            self._write(record)
        self.trained_tokens, self.train_seconds = progress["trained_tokens"], progress["train_seconds"]
        # Not in older checkpoints.
        self.skipped_steps, self.unfinished = progress.get("skipped_steps", 0), progress.get("unfinished")
        self.runner.stepped_down = progress["stepped_down"]
        if self.early_stopping:
            self.early_stopping.restore(progress["early_stopping"])

    def close(self) -> None:
        """Flush what is written elsewhere."""
        for log in self.logs:
            log.close()

    def _progress(self) -> dict[str, Any]:
        return {
            "guard": self.guard.state(),
            "history": self.curves.as_history(),
            "trained_tokens": self.trained_tokens,
            "train_seconds": self.train_seconds,
            "skipped_steps": self.skipped_steps,
            "unfinished": self.unfinished,
            "is_gpu": self.runner.job.device.is_gpu,
            "layout": asdict(self.runner.layout),
            "execution": self.runner.job.settings.execution.model_dump(mode="json"),
            "stepped_down": self.runner.stepped_down,
            "early_stopping": self.early_stopping.state() if self.early_stopping else None,
        }

    def _count_skipped(self, accelerator: Any, step: int) -> None:
        self.skipped_steps = self.skipped_steps + 1 if accelerator.optimizer_step_was_skipped else 0
        most = min(_MAX_SKIPPED_STEPS, len(self.runner.steps) - 1)
        if self.skipped_steps > most:
            raise TrainingError(
                f"at most {most} optimizer steps in a row may be skipped because gradients overflow in fp16, got "
                f"{self.skipped_steps} at step {step}, with a loss scale of {accelerator.scaler.get_scale():g}: the "
                "weights did not change in them. Train on a GPU with bf16 (Ampere or newer), lower "
                "training.learning_rate, or take a base that fp16 has the range for."
            )

    def _record(self, step: int, logs: dict[str, float]) -> dict[str, float]:
        # From the end of one step to the end of the next, optimizer and data included: the GPU runs behind Python.
        seconds = time.perf_counter() - self._step_began
        self.trained_tokens += self.runner.step_tokens
        self.train_seconds += seconds
        record = {
            "step": step,
            "loss": float(logs["loss"]),
            "learning_rate": float(logs["learning_rate"]),
            "grad_norm": float(logs["grad_norm"]),
            "tokens_per_second": self.runner.step_tokens / seconds,
            "seconds": self.train_seconds,
        }
        if not math.isfinite(record["grad_norm"]):
            del record["grad_norm"]  # of a step that fp16 skips
        if self.runner.job.device.is_gpu:
            record["vram_gib"] = peak_reserved_bytes() / 2**30
        return record

    def _tell(self, step: int, record: dict[str, float]) -> None:
        self.curves.add(record)
        self._write(record)
        rate = self.trained_tokens / self.train_seconds
        shown = {
            name: record[name] for name in ("loss", "held_out_loss", "learning_rate", "vram_gib") if name in record
        }
        self.reporter.progress(
            step,
            len(self.runner.steps),
            **shown,
            tokens_per_second=record["tokens_per_second"],
            eta_seconds=(self.total_tokens - self.trained_tokens) / rate,
        )

    def _write(self, record: dict[str, float]) -> None:
        figures = {name: value for name, value in record.items() if name != "step"}
        for log in self.logs:
            log.add(int(record["step"]), figures)


def losses_by_row(trainer: Any, runner: StepRunner, rows: Sequence[int]) -> dict[int, float]:
    """Mean loss of each row by itself, with the weights as they are; the training ends after it."""
    import torch

    trainer.model.eval()
    with torch.no_grad():
        return {
            row: float(
                trainer.loss_of(runner.batches.load((row,), runner.layout), runner.batches.count_targets((row,)))
            )
            for row in rows
        }


def gradient_norm(model: Any) -> float:
    """Norm of all gradients together."""
    import torch

    return float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))


def peak_reserved_bytes() -> int:
    """Most that torch's allocator has held of the GPU's memory."""
    import torch

    return int(torch.cuda.max_memory_reserved())
