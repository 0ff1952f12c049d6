"""One file per format; each turns the text of a row into a conversation or says what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable

from ft_pipeline.datasets.formats.chat_messages import parse_chat_messages
from ft_pipeline.datasets.formats.conversation import Message, RowFault

FORMATS: dict[str, Callable[[str], list[Message]]] = {"chat_messages": parse_chat_messages}

__all__ = ["FORMATS", "Message", "RowFault", "parse_chat_messages"]
