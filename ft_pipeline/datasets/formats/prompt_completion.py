"""Prompt and completion: `{"prompt": ..., "completion": ...}`, each a text or, as in TRL, a list of messages.

Source: https://huggingface.co/docs/trl/dataset_formats#prompt-completion
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft_pipeline.datasets.conversation import Conversation, Message, RowFault, show_value
from ft_pipeline.datasets.formats.chat_messages import parse_turns


def parse_prompt_completion(row: Mapping[str, Any]) -> Conversation:
    """The conversation of one row; `system` beside a prompt of text becomes the first turn.

    Raises:
        RowFault: `wrong_shape`: prompt and completion are neither two texts nor two lists of messages.
    """
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        messages: list[Message] = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        if isinstance(row.get("system"), str) and row["system"].strip():
            messages.insert(0, {"role": "system", "content": row["system"]})
        return Conversation(messages)
    if isinstance(prompt, list) and isinstance(completion, list):
        return parse_turns([*prompt, *completion], row, "prompt and completion")
    raise RowFault(
        "wrong_shape",
        f'"prompt" and "completion" must both be text or both be lists of messages, got {show_value(prompt)} and '
        f"{show_value(completion)}",
    )
