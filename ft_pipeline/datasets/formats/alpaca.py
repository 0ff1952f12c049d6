"""Alpaca: `{"instruction": ..., "input": ..., "output": ...}`, with `system` and `history` where there are some.

Source: https://github.com/tatsu-lab/stanford_alpaca#data-release; `history` as in LLaMA-Factory's data/README.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft_pipeline.datasets.conversation import Conversation, Message, RowFault, show_value


def parse_alpaca(row: Mapping[str, Any]) -> Conversation:
    """The conversation of one row: instruction and input are the user's turn, a blank line between them.

    Raises:
        RowFault: `wrong_shape`: a field is no text.
    """
    instruction, output = _read_text(row, "instruction"), _read_text(row, "output")
    extra = _read_text(row, "input") if row.get("input") is not None else ""
    messages: list[Message] = []
    if row.get("system"):
        messages.append({"role": "system", "content": _read_text(row, "system")})
    for pair in row.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowFault("wrong_shape", f'"history" must be pairs of texts, got {show_value(pair)}')
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    prompt = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": output}]
    return Conversation(messages)


def _read_text(row: Mapping[str, Any], field: str) -> str:
    value = row[field]
    if not isinstance(value, str):
        raise RowFault("wrong_shape", f'"{field}" must be text, got {show_value(value)}')
    return value
