"""Chat messages as OpenAI's fine-tuning API takes them: `{"messages": [{"role": ..., "content": ...}, ...]}`.

With `tools` beside them, `tool_calls` in an assistant's turn and turns of the role `tool`; also the older `functions`,
`function_call` and role `function`. Source: https://platform.openai.com/docs/guides/supervised-fine-tuning
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ft_pipeline.datasets.conversation import ROLES, TEXT_ROLE, Conversation, Message, RowFault, pack_extra, show_value
from ft_pipeline.datasets.formats.fields import add_system
from ft_pipeline.datasets.formats.tools import read_call_text, read_calls, read_tools

_CALL_ROLE = "function_call"
_TEXT_FIELDS = ("tool_call_id", "name", "reasoning_content")
OPENAI_ROLES = MappingProxyType({"developer": "system", "function": "tool"})
SHAREGPT_ROLES = MappingProxyType(
    {
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "assistant": "assistant",
        "chatgpt": "assistant",
        "bot": "assistant",
        "model": "assistant",
        _CALL_ROLE: "assistant",
        "system": "system",
        "observation": "tool",
        "tool": "tool",
    }
)


def parse_chat_messages(row: Mapping[str, Any]) -> Conversation:
    """The conversation of one row.

    Kept of a turn are role, content, `tool_calls`, `tool_call_id`, `name`, `reasoning_content` (for the templates that
    know it) and a `weight` of 0; what else stands in it, such as an id or a time, is left out.

    Raises:
        RowFault: `wrong_shape`: no list of messages with text; `not_text`: a picture or sound among them;
            `unknown_role`: the one that plain text has here.
    """
    return parse_turns(row["messages"], row, "messages")


def parse_turns(
    value: Any, row: Mapping[str, Any], column: str, roles: Mapping[str, str] = OPENAI_ROLES
) -> Conversation:
    """A list of turns, found in a column of a row, spelled `role` and `content` or `from` and `value`.

    Args:
        roles: Our names of roles by theirs; a turn with `from` goes by those of ShareGPT.

    Raises:
        RowFault: as `parse_chat_messages`.
    """
    if not isinstance(value, list) or not value:
        raise RowFault("wrong_shape", f'"{column}" must be a list of messages, got {show_value(value)}')
    messages: list[Message] = []
    extras: dict[int, dict[str, Any]] = {}
    for number, turn in enumerate(value):
        # Most turns are no more than this, and reading them otherwise takes many times as long.
        if type(turn) is dict and len(turn) == 2 and turn.get("role") in ROLES and type(turn.get("content")) is str:
            messages.append({"role": turn["role"], "content": turn["content"]})
            continue
        message, fields = _read_turn(turn, number + 1, column, roles)
        messages.append(message)
        if fields:
            extras[number] = fields
    _require_last_answer(messages, extras)
    if add_system(messages, row):
        extras = {number + 1: fields for number, fields in extras.items()}
    return Conversation(messages, pack_extra(read_tools(row), extras))


def _read_turn(turn: Any, number: int, column: str, roles: Mapping[str, str]) -> tuple[Message, dict[str, Any]]:
    """A turn, and what a template may see in it beside role and content."""
    if not isinstance(turn, dict):
        raise RowFault("wrong_shape", f'item {number} of "{column}" must be an object, got {show_value(turn)}')
    spelled, role = _pick(turn, "role", "from")
    roles = SHAREGPT_ROLES if spelled == "from" else roles
    if not isinstance(role, str):
        raise RowFault("wrong_shape", f'"{spelled}" of message {number} must be text, got {show_value(role)}')
    # A role that nobody knows stays as it is, for the contract to name; but that of plain text would pass.
    known = roles.get(role.lower(), role)
    if known == TEXT_ROLE:
        raise RowFault("unknown_role", f"message {number} has the role {show_value(role)}, and a chat has none such")
    spelled, content = _pick(turn, "content", "value")
    # Of two fields, role and content are both.
    fields = {} if len(turn) == 2 and content is not None else _read_fields(turn, number, known)
    if content is None and "tool_calls" in fields:
        content = ""
    if isinstance(content, list):
        content = "".join(_read_part(part, number) for part in content)
    if not isinstance(content, str):
        raise RowFault("wrong_shape", f'"{spelled}" of message {number} must be text, got {show_value(content)}')
    if role.lower() == _CALL_ROLE and _CALL_ROLE in roles:
        fields["tool_calls"] = [*fields.get("tool_calls", []), *read_call_text(content, number)]
        content = ""
    return {"role": known, "content": content}, fields


def _pick(turn: Mapping[str, Any], ours: str, theirs: str) -> tuple[str, Any]:
    """Which of two spellings a field has, and its value."""
    field = theirs if turn.get(ours) is None and turn.get(theirs) is not None else ours
    return field, turn.get(field)


def _read_fields(turn: Mapping[str, Any], number: int, role: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if calls := read_calls(turn, number):
        fields["tool_calls"] = calls
    for name in _TEXT_FIELDS:
        value = turn.get(name)
        if value is not None and not isinstance(value, str):
            raise RowFault("wrong_shape", f'"{name}" of message {number} must be text, got {show_value(value)}')
        if value:
            fields[name] = value
    if role == "assistant" and (weight := turn.get("weight")) is not None:
        if isinstance(weight, bool) or weight not in (0, 1):
            raise RowFault("wrong_shape", f'"weight" of message {number} must be 0 or 1, got {show_value(weight)}')
        if weight == 0:
            fields["weight"] = 0
    return fields


def _read_part(part: Any, number: int) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise RowFault("not_text", f"message {number} holds something other than text: {show_value(part)}")


def _require_last_answer(messages: list[Message], extras: Mapping[int, Mapping[str, Any]]) -> None:
    """Refuse a row whose last answer is not to be learned; that of an earlier one is up to `dataset.loss_on`."""
    if not any("weight" in fields for fields in extras.values()):
        return
    last = max(number for number, message in enumerate(messages) if message["role"] == "assistant")
    if "weight" in extras.get(last, {}):
        raise RowFault(
            "wrong_shape",
            f"the last answer, message {last + 1}, has weight 0, and it is always learned: weights are not supported "
            "yet. Drop the row, or end it with an answer that is to be learned",
        )
