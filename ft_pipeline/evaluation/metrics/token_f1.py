"""Token F1: the harmonic mean of precision and recall over words, whatever their order, as a mean over rows.

Source: Rajpurkar et al. 2016, SQuAD, and its evaluation script: no upper case, no punctuation (taken out, so that
`don't` is one word), words by white space. Two things differ. Punctuation is Unicode's, and a script without spaces is
split by characters (MLQA, Lewis et al. 2020). And the articles, which SQuAD drops, are kept: `a` is a word in other
languages, and the answer to a multiple-choice question.
"""

from __future__ import annotations

import string
import unicodedata
from collections import Counter

from ft_pipeline.evaluation.metrics.against_reference import compare_texts, has_one_answer
from ft_pipeline.evaluation.metrics.metric import Metric
from ft_pipeline.evaluation.metrics.words import CharacterTable, word_f1


def _drop_punctuation(character: str) -> str:
    if character in string.punctuation or unicodedata.category(character).startswith("P"):
        return ""
    return character


_TABLE = CharacterTable(_drop_punctuation)


def token_f1(answer: str, reference: str) -> float:
    """F1 of the words of both; of texts without any word, whether they are equal."""
    return word_f1(answer, reference, _TABLE, lambda ours, theirs: (Counter(ours) & Counter(theirs)).total())


TOKEN_F1 = Metric("token F1", "share", part=compare_texts(token_f1), weight=has_one_answer)
