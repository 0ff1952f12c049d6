"""The canonical row: a list of messages."""

from __future__ import annotations

from typing import TypedDict


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


class RowFault(ValueError):
    """A row that is no conversation.

    Attributes:
        code: The reason code under which it goes to quarantine.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
