"""ShareGPT: `{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}`, `system` beside it.

With tools in the column `tools`, calls of them in turns from `function_call` (JSON of the call) and results in turns
from `observation` or `tool`. Turns may be spelled `role` and `content` too.

Source: https://huggingface.co/datasets/anon8231489123/ShareGPT_Vicuna_unfiltered and LLaMA-Factory's data/README.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft_pipeline.datasets.conversation import Conversation
from ft_pipeline.datasets.formats.chat_messages import SHAREGPT_ROLES, parse_turns


def parse_sharegpt(row: Mapping[str, Any]) -> Conversation:
    """The conversation of one row.

    Raises:
        RowFault: `wrong_shape`: no list of turns with text; `not_text`: a picture or sound among them.
    """
    return parse_turns(row["conversations"], row, "conversations", SHAREGPT_ROLES)
