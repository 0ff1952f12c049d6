"""Ends a training whose loss goes wrong, with the rows that did it."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ft_pipeline.errors import TrainingError

# A jump is one from the median of so many steps, once there are enough to have one that means something.
_WINDOW_STEPS = 32
_MIN_STEPS = 8


class LossGuard:
    """Judges each step's loss.

    Args:
        max_jump: Nats per token that a step's loss may lie above the median of the last steps.
    """

    def __init__(self, max_jump: float) -> None:
        self._max_jump = max_jump
        self._losses: deque[float] = deque(maxlen=_WINDOW_STEPS)

    def check(self, step: int, loss: float, grad_norm: float, name_rows: Callable[[], str]) -> None:
        """Judge one step; what passes is part of the measure for the next ones.

        Args:
            step: Its number.
            loss: Mean over its targets, in nats.
            grad_norm: Norm of its gradient before clipping.
            name_rows: Called only if something is wrong.

        Raises:
            TrainingError: the loss or the gradient is no finite number, or the loss jumps.
        """
        if not math.isfinite(loss):
            raise TrainingError(
                f"the training's loss must be a finite number, got {loss} at step {step}. "
                f"{self._name(name_rows)} Look at them, or lower training.learning_rate."
            )
        if not math.isfinite(grad_norm):
            # A loss that is fine points at no row.
            raise TrainingError(
                f"the training's gradient norm must be a finite number, got {grad_norm} at step {step}, whose loss is "
                f"{loss:.3f}. Lower training.learning_rate. {self._name(name_rows, 'with the highest losses')} "
                "They need not be the cause."
            )
        if len(self._losses) >= _MIN_STEPS:
            median = statistics.median(self._losses)
            if loss > median + self._max_jump:
                raise TrainingError(
                    f"a step's loss must lie at most {self._max_jump:g} nats (training.execution.max_loss_jump) above "
                    f"the median of the last {len(self._losses)} steps, {median:.3f}; got {loss:.3f} at step {step}. "
                    f"{self._name(name_rows)} Look at them, lower training.learning_rate, or raise "
                    "training.execution.max_loss_jump."
                )
        self._losses.append(float(loss))

    def state(self) -> dict[str, Any]:
        """What `restore` takes; JSON."""
        return {"losses": list(self._losses)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._losses = deque(state["losses"], maxlen=_WINDOW_STEPS)

    def _name(self, name_rows: Callable[[], str], which: str = "") -> str:
        rows = f"Rows of this step {which}".rstrip()
        try:
            return f"{rows}: {name_rows()}."
        except RuntimeError as err:
            # Out of memory, mostly. What is wrong with the loss must be said all the same.
            return f"{rows}: not known, as their losses could not be computed ({err})."


def name_worst_rows(losses: Mapping[int, float], places: Callable[[int], str], most: int = 5) -> str:
    """The rows with the worst losses: those that are no finite number first, then the highest.

    Args:
        losses: Loss in nats per token by row.
        places: Gives a row's `file:line`.
        most: So many are named.

    Returns:
        Such as `data/a.jsonl:17 (loss nan), data/a.jsonl:4 (loss 9.120) and 3 more`.
    """
    worst = sorted(losses, key=lambda row: (math.isfinite(losses[row]), -losses[row], row))
    named = ", ".join(f"{places(row)} (loss {losses[row]:.3f})" for row in worst[:most])
    return named + (f" and {len(worst) - most} more" if len(worst) > most else "")
