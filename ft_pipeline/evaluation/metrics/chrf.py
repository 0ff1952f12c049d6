"""chrF2: F-score over character n-grams up to 6, recall counting twice; a mean over rows of sacreBLEU's sentence score.

Source: Popović 2015, chrF; sacreBLEU's signature is `nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no`. It knows no words,
so that it is as good for inflected languages and for those without spaces.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

from ft_pipeline.evaluation.metrics.against_reference import compare_texts, has_one_answer
from ft_pipeline.evaluation.metrics.metric import Metric
from ft_pipeline.evaluation.metrics.words import MAX_CHARS


@lru_cache(maxsize=1 << 14)  # contestants often give the same answer, and a millisecond is much
def chrf(answer: str, reference: str) -> float:
    """chrF2 of the first 10,000 characters of both; equal ones have 1, be they empty."""
    if answer.strip() == reference.strip():
        return 1.0
    return float(_scorer().sentence_score(answer[:MAX_CHARS], [reference[:MAX_CHARS]]).score) / 100


@cache
def _scorer() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


CHRF2 = Metric("chrF", "share", part=compare_texts(chrf), weight=has_one_answer)
