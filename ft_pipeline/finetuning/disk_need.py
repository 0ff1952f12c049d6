"""What a training writes to the disk, from shapes alone."""

from __future__ import annotations

from ft_pipeline.finetuning.architecture import Architecture
from ft_pipeline.finetuning.memory import COEFFICIENTS, count_trainable
from ft_pipeline.recipe import TrainingSection

# Two are kept while the next one is written beside them: `checkpoints.py`, `early_stopping.py`.
_CHECKPOINTS = 3
_BEST_ADAPTERS = 3
# Token ids and labels in the memory-mapped copy of the rows: `batches.py`.
_TOKEN_BYTES = 8


def count_disk_bytes(architecture: Architecture, training: TrainingSection, optimizer: str, tokens: int) -> int:
    """Most bytes that a training has on the disk at once.

    Args:
        architecture: The base's.
        training: The recipe's goal.
        optimizer: Of the plan. A paged one's state lies in the host's memory and is saved like any other.
        tokens: Of all rows, held-out ones included.
    """
    count = count_trainable(architecture, training)
    adapter = count * COEFFICIENTS.adapter_bytes
    state = count * (COEFFICIENTS.adam32_bytes if optimizer == "adamw_torch" else COEFFICIENTS.adam8_bytes)
    kept = _CHECKPOINTS * (adapter + state) + (_BEST_ADAPTERS * adapter if training.early_stopping else 0)
    return round(kept + adapter + tokens * _TOKEN_BYTES)
