"""Training's progress in the run's log: step, loss, real tokens a second, time left."""

from __future__ import annotations

import math
import time
from typing import Any

from ft_pipeline.errors import TrainingError
from ft_pipeline.processes.reporter import Reporter


def make_progress_callback(reporter: Reporter, total_tokens: float) -> Any:
    """A `transformers.TrainerCallback` that reports each log of the trainer and stops at a loss that is no number.

    Args:
        reporter: Where to.
        total_tokens: Real tokens of the whole training, padding left out.
    """
    from transformers import TrainerCallback

    class ProgressCallback(TrainerCallback):  # type: ignore[misc]
        started = time.perf_counter()

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            loss = float(logs["loss"])
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the training loss must be a number, got {loss} at step {state.global_step}. "
                    "Lower training.learning_rate."
                )
            seconds = time.perf_counter() - self.started
            share = state.global_step / state.max_steps
            reporter.progress(
                state.global_step,
                state.max_steps,
                loss=loss,
                learning_rate=float(logs["learning_rate"]),
                tokens_per_second=total_tokens * share / seconds,
                eta_seconds=seconds * (1 - share) / share,
            )

    return ProgressCallback()
