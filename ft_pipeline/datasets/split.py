"""Which side a row is on. It hangs on the row's prompt alone, so it never changes as data grows."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

from ft_pipeline.datasets.formats.conversation import Message


def normalize(text: str) -> str:
    """Text as people compare it: Unicode NFKC, case folded, runs of white space as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def prompt_of(messages: Sequence[Message]) -> str:
    """The first user turn, normalized: what the split and the leakage check go by."""
    return normalize(next(message["content"] for message in messages if message["role"] == "user"))


def split_position(prompt: str, salt: str) -> float:
    """Where a prompt falls in [0, 1), uniformly over prompts; below the held-out share it is held out.

    Args:
        prompt: A normalized prompt.
        salt: The recipe's `split_salt`.
    """
    digest = hashlib.sha256(f"{salt}\x00{prompt}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def conversation_key(messages: Sequence[Message]) -> str:
    """Hash by which exact duplicates are found: all roles and normalized contents."""
    digest = hashlib.sha256()
    for message in messages:
        digest.update(f"{message['role']}\x00{normalize(message['content'])}\x01".encode())
    return digest.hexdigest()
