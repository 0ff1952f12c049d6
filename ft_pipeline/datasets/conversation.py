"""The canonical row, which every format becomes: a list of messages, and what else a template needs to see."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from ft_pipeline.datasets.checks.secrets import redact

ROLES = ("system", "user", "assistant", "tool")
# The one turn of a row of plain text: no template, every token is learned.
TEXT_ROLE = "text"
# Whoever reads `extra` later may be deeper in calls of its own than who wrote it.
_MAX_EXTRA_DEPTH = 100
# Of a value that is shown; no key is longer.
_LOOKED_AT_CHARS = 4000


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A row of any format.

    Attributes:
        messages: The turns; of plain text one turn of the role `text`.
        extra: JSON of what most rows lack: `{"tools": [...], "turns": {"1": {"tool_calls": [...]}}}`, where a turn goes
            by its position from 0.
    """

    messages: list[Message]
    extra: str | None = None


class RowFault(ValueError):
    """A row that is no conversation.

    Attributes:
        code: The reason code under which it goes to quarantine.
        column: Where in the line, in bytes from 1; 0 where that means nothing.
    """

    def __init__(self, code: str, detail: str, column: int = 0) -> None:
        super().__init__(code, detail, column)  # all of them, or it could not go to another process and back
        self.code = code
        self.column = column

    def __str__(self) -> str:
        return str(self.args[1])


def pack_extra(tools: Sequence[Any] | None, turns: Mapping[int, Mapping[str, Any]]) -> str | None:
    """The `extra` of a conversation; None where there is nothing to say.

    Raises:
        RowFault: `wrong_shape`: it holds what JSON does not, such as a time; `not_finite`: NaN or an infinity;
            `too_deep`: it is nested in more than 100 levels.
    """
    extra: dict[str, Any] = {}
    if tools:
        extra["tools"] = list(tools)
    if turns:
        extra["turns"] = {str(turn): dict(fields) for turn, fields in turns.items()}
    if not extra:
        return None
    if _is_deeper(extra, _MAX_EXTRA_DEPTH):
        raise RowFault("too_deep", f"tools and their calls must be nested in at most {_MAX_EXTRA_DEPTH} levels")
    try:
        return json.dumps(extra, ensure_ascii=False, allow_nan=False)
    except TypeError as err:
        raise RowFault("wrong_shape", f"tools and their calls must be JSON: {err}") from err
    except ValueError as err:
        raise RowFault("not_finite", f"tools and their calls must have the numbers of JSON: {err}") from err


def unpack(messages: Sequence[Message], extra: str | None) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Messages and tools as chat templates and TRL take them."""
    if extra is None:
        return [dict(message) for message in messages], None
    fields = json.loads(extra)
    turns = fields.get("turns", {})
    return [{**message, **turns.get(str(turn), {})} for turn, message in enumerate(messages)], fields.get("tools")


def show_value(value: Any, limit: int = 60) -> str:
    """A value for an error's text, cut; without keys, of which nobody would find what a cut leaves."""
    text = redact(repr(value)[:_LOOKED_AT_CHARS])
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list | tuple)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return any(isinstance(item, dict | list | tuple) for item in level)
