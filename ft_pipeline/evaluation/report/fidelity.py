"""How near each quantized file is to the 16-bit model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ft_pipeline.evaluation.intervals import Estimate
from ft_pipeline.evaluation.rules import HELD_OUT
from ft_pipeline.evaluation.scores import ContestantResult, Scoreboard


@dataclass(frozen=True)
class Fidelity:
    """One file beside the 16-bit model, on held-out rows.

    Attributes:
        divergence: KL divergence a token, in nats: its mean.
        largest: That of the token with the largest.
        tokens: How many were compared.
    """

    result: ContestantResult
    divergence: Estimate
    largest: float
    tokens: int
    agreement: Estimate | None
    ratio: Estimate | None


def find_fidelity(board: Scoreboard) -> list[Fidelity]:
    """Of all that were compared, the largest file first."""
    found = []
    for result in board.results:
        divergence = board.estimate(result, HELD_OUT, "kld")
        if divergence is None:
            continue
        measured = [row.divergence for row in result.sets.get(HELD_OUT, ()) if row.divergence and row.divergence.tokens]
        found.append(
            Fidelity(
                result,
                divergence,
                float(np.max([one.kl_max for one in measured])),
                sum(one.tokens for one in measured),
                board.estimate(result, HELD_OUT, "top_agreement"),
                board.estimate(result, HELD_OUT, "perplexity_ratio"),
            )
        )
    return sorted(found, key=lambda fidelity: -fidelity.result.costs.size_bytes)
