"""ShareGPT: `{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}`, `system` beside it.

Source: https://huggingface.co/datasets/anon8231489123/ShareGPT_Vicuna_unfiltered and LLaMA-Factory's data/README.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft_pipeline.datasets.conversation import Conversation, Message, RowFault, show_value

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
}


def parse_sharegpt(row: Mapping[str, Any]) -> Conversation:
    """The conversation of one row.

    Raises:
        RowFault: `wrong_shape`: no list of turns with text.
    """
    turns = row["conversations"]
    if not isinstance(turns, list) or not turns:
        raise RowFault("wrong_shape", f'"conversations" must be a list of turns, got {show_value(turns)}')
    messages = [_read_turn(turn, number) for number, turn in enumerate(turns, start=1)]
    system = row.get("system")
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return Conversation(messages)


def _read_turn(turn: Any, number: int) -> Message:
    if not isinstance(turn, dict):
        raise RowFault("wrong_shape", f"turn {number} must be an object, got {show_value(turn)}")
    for field in ("from", "value"):
        if not isinstance(turn.get(field), str):
            raise RowFault("wrong_shape", f'"{field}" of turn {number} must be text, got {show_value(turn.get(field))}')
    # A role that nobody knows stays as it is, for the contract to name.
    role: str = turn["from"]
    return {"role": _ROLES.get(role.lower(), role), "content": turn["value"]}
