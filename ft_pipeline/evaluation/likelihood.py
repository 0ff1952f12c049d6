"""Log-likelihoods of tokens from a model's logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Values of one block, each in two arrays beside llama.cpp's: a vocabulary of 152k has hundreds of MiB of logits.
_BLOCK_VALUES = 2**20


def log_likelihoods(
    logits: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Log-likelihoods of tokens in nats, and the likeliest token of each row.

    Args:
        logits: Shape (rows, vocabulary).
        targets: Tokens, shape (rows,), or (n, rows) for n tokens of each row.

    Returns:
        Of the shape of `targets`, and of (rows,). Exponentials are taken in 32 bits and summed in 64. The logits of a
        broken model are no numbers, nor is what follows from them.
    """
    size = max(1, _BLOCK_VALUES // logits.shape[1])
    log_totals = np.empty(len(logits))
    with np.errstate(invalid="ignore"):
        for start in range(0, len(logits), size):
            block = logits[start : start + size]
            peak = block.max(axis=1)
            total = np.exp(block - peak[:, None]).sum(axis=1, dtype=np.float64)
            log_totals[start : start + size] = peak + np.log(total)
        return logits[np.arange(len(logits)), targets] - log_totals, logits.argmax(axis=1)
