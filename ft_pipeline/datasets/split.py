"""Which side a row is on. It hangs on the row's prompt alone, so it never changes as data grows."""

from __future__ import annotations

import hashlib
import unicodedata

import polars as pl

# What `str.split` takes for white space, in ASCII; a single blank stays as it is.
_BLANKS = r"[ \t\n\r\x0b\x0c\x1c-\x1f]{2,}|[\t\n\r\x0b\x0c\x1c-\x1f]"


def normalize(text: str) -> str:
    """Text as people compare it: Unicode NFKC, case folded, runs of white space as one space."""
    if text.isascii():
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def normalize_all(texts: pl.Series) -> pl.Series:
    """The same for a column: ASCII, where case and white space are all there is to it, without a loop of Python's."""
    lowered = texts.str.to_lowercase().str.replace_all(_BLANKS, " ").str.strip_chars(" ")
    others = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    if others.is_empty():
        return lowered
    return lowered.scatter(others, pl.Series([normalize(text) for text in texts.gather(others)], dtype=pl.String))


def split_hash(prompt: str, salt: str) -> tuple[int, float]:
    """Of a prompt a hash of 8 bytes, and where it falls in [0, 1), uniformly over prompts.

    Below the held-out share it is held out.

    Args:
        prompt: A normalized prompt, or a group with a mark before it.
        salt: The recipe's `split_salt`.
    """
    digest = hashlib.sha256(f"{salt}\x00{prompt}".encode()).digest()
    return int.from_bytes(digest[6:14], "little"), int.from_bytes(digest[:6], "big") / 2**48


def conversation_key(text: str, extra: str | None = None) -> bytes:
    """Hash of 16 bytes by which exact duplicates are found.

    Args:
        text: All roles and normalized contents, with marks between them.
        extra: What templates see beside the messages.
    """
    return hashlib.blake2b(f"{text}\x01{extra}".encode() if extra else text.encode(), digest_size=16).digest()


def describe_rows(turns: pl.DataFrame) -> pl.DataFrame:
    """Of each conversation its whole text and its prompt, normalized, as `text` and `prompt`.

    The prompt is the first user turn; of plain text, the document.

    Args:
        turns: All turns of some conversations: row, role, content.
    """
    turns = turns.select("row", "role", normalize_all(turns["content"]).alias("content"))
    texts = turns.group_by("row", maintain_order=True).agg(
        (pl.col("role") + "\x00" + pl.col("content")).str.join("\x01").alias("text"),
        pl.col("content").filter(pl.col("role") == "user").first().alias("asked"),
        pl.col("content").first().alias("first"),
    )
    return texts.select("row", "text", pl.coalesce("asked", "first").alias("prompt"))
