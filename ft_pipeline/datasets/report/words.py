"""Which words became more or less frequent, from a sample of rows that is bounded and always the same."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ft_pipeline.datasets.validated import TRAIN_FILE

SAMPLE_ROWS = 5000
_MESSAGES, _CHARS, _WORD_CHARS = 32, 4000, 40
_WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class Shift:
    """How frequent one word, token or role was before and is now."""

    name: str
    before: float
    now: float


@dataclass(frozen=True)
class WordChange:
    """Words of two or more letters, case folded.

    Attributes:
        rows_before: Training rows of the data set before that were read.
        rows: Training rows that were read.
    """

    rows_before: int
    rows: int
    risen: tuple[Shift, ...]
    fallen: tuple[Shift, ...]


def compare_words(folder: Path, previous: Path, most: int) -> WordChange:
    """The words whose share rose and fell the most from the data set before to this one."""
    rows, now = _count_words(folder)
    rows_before, before = _count_words(previous)
    totals = [max(1, before.total()), max(1, now.total())]
    shifts = [Shift(word, before[word] / totals[0], now[word] / totals[1]) for word in before | now]
    ordered = sorted(shifts, key=lambda shift: (shift.before - shift.now, shift.name))
    risen = [shift for shift in ordered[:most] if shift.now > shift.before]
    fallen = [shift for shift in ordered[::-1][:most] if shift.now < shift.before]
    return WordChange(rows_before, rows, tuple(risen), tuple(fallen))


def _count_words(folder: Path) -> tuple[int, Counter[str]]:
    """Words of about `SAMPLE_ROWS` rows: those whose key is small. Keys are hashes, so all sources have their share."""
    scan = pl.scan_parquet(folder / TRAIN_FILE, glob=False)
    share = SAMPLE_ROWS / max(1, scan.select(pl.len()).collect().item())
    if share < 1:
        scan = scan.filter(pl.col("key") < f"{int(share * 16**32):032x}")
    text = pl.element().struct.field("content").str.slice(0, _CHARS)
    frame = scan.select(pl.col("messages").list.head(_MESSAGES).list.eval(text)).collect(engine="streaming")
    counts: Counter[str] = Counter()
    for contents in frame["messages"]:
        for content in contents:
            counts.update(word.casefold()[:_WORD_CHARS] for word in _WORD.findall(content or ""))
    return frame.height, counts
