"""Chat messages as OpenAI's fine-tuning API takes them: `{"messages": [{"role": ..., "content": ...}, ...]}`.

With `tools` beside them, `tool_calls` in an assistant's turn and turns of the role `tool`. Source:
https://platform.openai.com/docs/guides/supervised-fine-tuning
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft_pipeline.datasets.conversation import Conversation, Message, RowFault, pack_extra, show_value

_EXTRA_FIELDS = ("tool_calls", "tool_call_id", "name")
_ROLES = {"developer": "system", "function": "tool"}


def parse_chat_messages(row: Mapping[str, Any]) -> Conversation:
    """The conversation of one row; fields that no template reads are left out.

    Raises:
        RowFault: `wrong_shape`: no list of messages with text; `not_text`: a picture or sound among them.
    """
    return parse_turns(row["messages"], row, "messages")


def parse_turns(value: Any, row: Mapping[str, Any], column: str) -> Conversation:
    """A list of turns, found in a column of a row.

    Raises:
        RowFault: as above.
    """
    if not isinstance(value, list) or not value:
        raise RowFault("wrong_shape", f'"{column}" must be a list of messages, got {show_value(value)}')
    messages: list[Message] = []
    extras: dict[int, dict[str, Any]] = {}
    for number, turn in enumerate(value):
        if type(turn) is dict and type(turn.get("role")) is str and type(turn.get("content")) is str:
            role: str = turn["role"]
            messages.append({"role": _ROLES.get(role, role), "content": turn["content"]})
        else:
            messages.append(_read_turn(turn, number + 1, column))
        if len(turn) > 2 and (fields := {name: turn[name] for name in _EXTRA_FIELDS if turn.get(name) is not None}):
            extras[number] = fields
    tools = row.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise RowFault("wrong_shape", f'"tools" must be a list, got {show_value(tools)}')
    return Conversation(messages, pack_extra(tools, extras))


def _read_turn(turn: Any, number: int, column: str) -> Message:
    if not isinstance(turn, dict):
        raise RowFault("wrong_shape", f'item {number} of "{column}" must be an object, got {show_value(turn)}')
    role, content = turn.get("role"), turn.get("content")
    if not isinstance(role, str):
        raise RowFault("wrong_shape", f'"role" of message {number} must be text, got {show_value(role)}')
    if content is None and turn.get("tool_calls"):
        content = ""
    if isinstance(content, list):
        content = "".join(_read_part(part, number) for part in content)
    if not isinstance(content, str):
        raise RowFault("wrong_shape", f'"content" of message {number} must be text, got {show_value(content)}')
    return {"role": _ROLES.get(role, role), "content": content}


def _read_part(part: Any, number: int) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise RowFault("not_text", f"message {number} holds something other than text: {show_value(part)}")
