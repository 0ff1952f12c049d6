"""Chat messages as OpenAI's fine-tuning API takes them: `{"messages": [{"role": ..., "content": ...}, ...]}`."""

from __future__ import annotations

import json
from typing import Any

from ft_pipeline.datasets.formats.conversation import Message, RowFault


def parse_chat_messages(text: str) -> list[Message]:
    """The messages of one JSON line; other fields of the row are left out.

    Raises:
        RowFault: `invalid_json`, or `wrong_shape` where it is JSON and no list of messages with text.
    """
    try:
        row = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as err:
        raise RowFault("invalid_json", f"not valid JSON: {err}") from err
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise RowFault("wrong_shape", f'expected an object with a list "messages", got {_shown(row)}')
    return [_check_message(message, number) for number, message in enumerate(messages, start=1)]


def _check_message(message: Any, number: int) -> Message:
    if not isinstance(message, dict):
        raise RowFault("wrong_shape", f"message {number} must be an object, got {_shown(message)}")
    for field in ("role", "content"):
        if not isinstance(message.get(field), str):
            raise RowFault(
                "wrong_shape", f'"{field}" of message {number} must be text, got {_shown(message.get(field))}'
            )
    for field in ("role", "content"):
        try:
            message[field].encode()
        except UnicodeEncodeError as err:
            raise RowFault("invalid_unicode", f'"{field}" of message {number} holds half a surrogate pair') from err
    return {"role": message["role"], "content": message["content"]}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _shown(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
