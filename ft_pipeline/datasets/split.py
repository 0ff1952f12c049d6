"""Which side a row is on. It hangs on the row's prompt alone, so it never changes as data grows."""

from __future__ import annotations

import hashlib
import unicodedata

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ft_pipeline.datasets.turns import Turns

# Characters of which NFKC and case folding make no more than lower case does: ASCII, letters of Latin-1 but for the
# sharp s, and the usual quotes and dashes.
_OTHERS = r"[^\x00-\x7fÀ-ÖØ-Þà-öø-ÿ–—‘’“”]"
# What `str.split` takes for white space, in ASCII; a single blank stays as it is.
_BLANKS = r"[ \t\n\r\x0b\x0c\x1c-\x1f]{2,}|[\t\n\r\x0b\x0c\x1c-\x1f]"


def normalize(text: str) -> str:
    """Text as people compare it: Unicode NFKC, case folded, runs of white space as one space."""
    if text.isascii():
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def normalize_all(texts: pl.Series) -> pl.Series:
    """The same for a column; without a loop of Python's where case and white space are all there is to it."""
    lowered = texts.str.to_lowercase().str.replace_all(_BLANKS, " ").str.strip_chars(" ")
    wide = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    others = wide.filter(texts.gather(wide).str.contains(_OTHERS))
    if others.is_empty():
        return lowered
    return lowered.scatter(others, pl.Series([normalize(text) for text in texts.gather(others)], dtype=pl.String))


def split_hashes(prompts: pl.Series, salt: str) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
    """Of each prompt a hash of 8 bytes, and where it falls in [0, 1), uniformly over prompts.

    Below the held-out share it is held out.

    Args:
        prompts: Normalized prompts, or groups with a mark before them.
        salt: The recipe's `split_salt`.
    """
    mark = f"{salt}\x00".encode()
    digests = b"".join(hashlib.sha256(mark + prompt).digest() for prompt in prompts.cast(pl.Binary).to_list())
    table = np.frombuffer(digests, np.uint8).reshape(-1, 32)
    keys = np.ascontiguousarray(table[:, 6:14]).view("<u8").ravel()
    return keys, table[:, :6].astype(np.float64) @ (256.0 ** np.arange(5, -1, -1)) / 2**48


def conversation_keys(texts: pl.Series, extras: pl.Series) -> list[bytes]:
    """Hashes of 16 bytes by which exact duplicates are found.

    Args:
        texts: All roles and normalized contents of each, with marks between them.
        extras: What templates see beside the messages.
    """
    whole = pl.select(pl.concat_str(texts, pl.coalesce(pl.lit("\x01") + extras, pl.lit("")))).to_series()
    return [hashlib.blake2b(text, digest_size=16).digest() for text in whole.cast(pl.Binary).to_list()]


def describe_rows(turns: Turns) -> pl.DataFrame:
    """What each conversation says, normalized, in three columns.

    - `text`: all of it.
    - `asked`: the first user turn; of plain text, the document. The side of the split goes by it.
    - `context`: all but the system turn and the last answer; of plain text, the document. What a test set asks is never
      trained on, and that goes by this.
    """
    contents = normalize_all(turns.frame["content"])
    asked = turns.first((turns.frame["role"] == "user").to_numpy())
    columns = {
        "text": turns.transcribe(contents),
        "asked": contents.gather(asked),
        "context": turns.join_some(contents, turns.is_context(), "\x01"),
    }
    return pl.DataFrame(columns)
