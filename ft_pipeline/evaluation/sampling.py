"""How a token is drawn from logits when answers are not greedy: llama.cpp's chain of samplers, seeded by the row.

The order is that of llama.cpp's programs (`common_params_sampling` in common/common.h): top-k, top-p and min-p on the
distribution as it is, and the temperature last. A row's draws hang on the seed, its set and its number alone, so an
answer does not depend on what is decoded beside it, on how many cores, or in which order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ft_pipeline.evaluation.rows import EvaluationRow
from ft_pipeline.recipe_evaluation import SamplingSection

GREEDY = SamplingSection()
Draw = Callable[[npt.NDArray[np.float32]], int]


def make_draw(sampling: SamplingSection, row: EvaluationRow) -> Draw | None:
    """What draws a row's tokens one after the other from logits of shape (vocabulary,); None: the answer is greedy."""
    if sampling.temperature == 0:
        return None
    generator = np.random.default_rng([sampling.seed, row.number, *row.set_name.encode()])

    def draw(logits: npt.NDArray[np.float32]) -> int:
        tokens, weights = list_candidates(logits, sampling)
        place = int(np.searchsorted(weights.cumsum(), generator.random(), side="right"))
        # The last of these bounds is 1 but for rounding.
        return int(tokens[min(place, len(tokens) - 1)])

    return draw


def list_candidates(
    logits: npt.NDArray[np.float32], sampling: SamplingSection
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Tokens that may be drawn, the likeliest first, and their probabilities.

    Args:
        logits: Of shape (vocabulary,).
        sampling: Its temperature is above 0.
    """
    # The likeliest first, of equals the first: so a tie does not depend on how numpy sorts.
    tokens = np.argsort(-logits, kind="stable")
    if sampling.top_k:
        tokens = tokens[: sampling.top_k]
    kept = logits[tokens].astype(np.float64)
    if sampling.top_p < 1:
        reached = np.searchsorted(_softmax(kept).cumsum(), sampling.top_p, side="left")
        kept = kept[: int(reached) + 1]
    if sampling.min_p > 0:
        # Of a broken model's logits, which are no numbers, none is below: one at least must stay.
        near = ~(kept < kept[0] + np.log(sampling.min_p))
        tokens, kept = tokens[: len(kept)][near], kept[near]
    return tokens[: len(kept)], _softmax(kept, sampling.temperature)


def _softmax(logits: npt.NDArray[Any], temperature: float = 1.0) -> npt.NDArray[np.float64]:
    # The logits of a broken model are no numbers, nor is what follows from them; by the lowest temperatures all but the
    # likeliest become infinitely unlikely.
    with np.errstate(invalid="ignore", over="ignore"):
        weights: npt.NDArray[np.float64] = np.exp((logits - logits.max()) / temperature)
        weights /= weights.sum()
    return weights
