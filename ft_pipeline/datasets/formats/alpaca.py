"""Alpaca: `{"instruction": ..., "input": ..., "output": ...}`, with `system` and `history` where there are some.

Source: https://github.com/tatsu-lab/stanford_alpaca#data-release; `history` as in LLaMA-Factory's data/README.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft_pipeline.datasets.conversation import Conversation, Message, RowFault, pack_extra, show_value
from ft_pipeline.datasets.formats.fields import add_system, read_text
from ft_pipeline.datasets.formats.tools import read_tools


def parse_alpaca(row: Mapping[str, Any]) -> Conversation:
    """The conversation of one row: instruction and input are the user's turn, a blank line between them.

    Raises:
        RowFault: `wrong_shape`: a field is no text, or `history` no list of pairs of texts.
    """
    instruction, output = read_text(row, "instruction"), read_text(row, "output")
    extra = read_text(row, "input") if row.get("input") is not None else ""
    prompt = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    messages = _read_history(row.get("history"))
    messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": output}]
    add_system(messages, row)
    return Conversation(messages, pack_extra(read_tools(row), {}))


def _read_history(value: Any) -> list[Message]:
    if value is None or value == "":  # the latter of a CSV file
        return []
    if not isinstance(value, list):
        raise RowFault("wrong_shape", f'"history" must be a list of pairs of texts, got {show_value(value)}')
    messages: list[Message] = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowFault("wrong_shape", f'"history" must be pairs of texts, got {show_value(pair)}')
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return messages
