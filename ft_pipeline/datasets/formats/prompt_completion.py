"""Prompt and completion: `{"prompt": ..., "completion": ...}`, each a text or, as in TRL, a list of messages.

Source: https://huggingface.co/docs/trl/dataset_formats#prompt-completion
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft_pipeline.datasets.conversation import Conversation, Message, RowFault, pack_extra, show_value
from ft_pipeline.datasets.formats.chat_messages import parse_turns
from ft_pipeline.datasets.formats.fields import add_system
from ft_pipeline.datasets.formats.tools import read_tools


def parse_prompt_completion(row: Mapping[str, Any]) -> Conversation:
    """The conversation of one row; `system` beside it becomes the first turn.

    Raises:
        RowFault: `wrong_shape`: prompt and completion are neither two texts nor two lists of messages.
    """
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        messages: list[Message] = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        add_system(messages, row)
        return Conversation(messages, pack_extra(read_tools(row), {}))
    if isinstance(prompt, list) and isinstance(completion, list):
        return parse_turns([*prompt, *completion], row, "prompt and completion")
    raise RowFault(
        "wrong_shape",
        f'"prompt" and "completion" must both be text or both be lists of messages, got {show_value(prompt)} and '
        f"{show_value(completion)}",
    )
