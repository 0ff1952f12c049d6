"""One file per format; each turns a row into a conversation or says what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ft_pipeline.datasets.conversation import Conversation
from ft_pipeline.datasets.formats.alpaca import parse_alpaca
from ft_pipeline.datasets.formats.chat_messages import parse_chat_messages
from ft_pipeline.datasets.formats.plain_chat import read_plain_chat
from ft_pipeline.datasets.formats.prompt_completion import parse_prompt_completion
from ft_pipeline.datasets.formats.sharegpt import parse_sharegpt
from ft_pipeline.datasets.formats.text import parse_text


@dataclass(frozen=True)
class Format:
    """A way to write a conversation into one row.

    Attributes:
        columns: What a row must have; by these a format is detected.
        parse: From a row that has them to its conversation; raises `RowFault`.
        read_plain: A short way from lines of JSON to the messages of each, which declines (None) unless `parse` would
            give the same of every line, and no group.
    """

    columns: tuple[str, ...]
    parse: Callable[[Mapping[str, Any]], Conversation]
    read_plain: Callable[[bytes], pa.ListArray | None] | None = None


# In the order in which detection tries them: a row of Alpaca often has a `text` beside its own columns.
FORMATS = {
    "chat_messages": Format(("messages",), parse_chat_messages, read_plain_chat),
    "sharegpt": Format(("conversations",), parse_sharegpt),
    "alpaca": Format(("instruction", "output"), parse_alpaca),
    "prompt_completion": Format(("prompt", "completion"), parse_prompt_completion),
    "text": Format(("text",), parse_text),
}
