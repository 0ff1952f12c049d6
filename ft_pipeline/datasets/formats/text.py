"""Plain text, for continued pretraining: `{"text": ...}`. No chat template; every token is learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft_pipeline.datasets.conversation import TEXT_ROLE, Conversation
from ft_pipeline.datasets.formats.fields import read_text


def parse_text(row: Mapping[str, Any]) -> Conversation:
    """The document of one row.

    Raises:
        RowFault: `wrong_shape`: it is no text.
    """
    return Conversation([{"role": TEXT_ROLE, "content": read_text(row, "text")}])
