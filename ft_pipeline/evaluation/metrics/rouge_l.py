"""ROUGE-L: F-measure over the longest common subsequence of words, as a mean over rows.

Source: Lin 2004, ROUGE, with beta 1 and without stemming, as Google's rouge_score has it: words are runs of letters and
digits without upper case. Letters are Unicode's here, and a script without spaces is split by characters.
"""

from __future__ import annotations

import unicodedata

from ft_pipeline.evaluation.metrics.against_reference import compare_texts, has_one_answer
from ft_pipeline.evaluation.metrics.metric import Metric
from ft_pipeline.evaluation.metrics.words import CharacterTable, word_f1


def _keep_letters(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":  # joiners, which stand within words
        return ""
    return character if category[0] in "LMN" else " "


_TABLE = CharacterTable(_keep_letters)


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of both; of texts without any word, whether they are equal."""
    from rapidfuzz.distance import LCSseq

    return word_f1(answer, reference, _TABLE, LCSseq.similarity)


ROUGE_L = Metric("ROUGE-L", "share", part=compare_texts(rouge_l), weight=has_one_answer)
