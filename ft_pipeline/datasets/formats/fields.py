"""Fields beside a format's own columns, read by one rule whatever the format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any

from ft_pipeline.datasets.conversation import Message, RowFault, show_value

# The column of any format whose rows stay on one side of the split.
GROUP = "group"


def read_text(row: Mapping[str, Any], field: str) -> str:
    """A field that must be text.

    Raises:
        RowFault: `wrong_shape`: it is none.
    """
    value = row[field]
    if not isinstance(value, str):
        raise RowFault("wrong_shape", f'"{field}" must be text, got {show_value(value)}')
    return value


def add_system(messages: list[Message], row: Mapping[str, Any]) -> bool:
    """Put the text of the column `system`, where there is one, before the messages.

    Returns:
        It was put there; false too where the messages begin with it already.

    Raises:
        RowFault: `wrong_shape`: it is no text, or the messages begin with another one.
    """
    if row.get("system") is None:
        return False
    system = read_text(row, "system")
    if not system.strip():
        return False
    if messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
        return True
    if messages[0]["content"].strip() != system.strip():
        raise RowFault("wrong_shape", '"system" must be what the system turn says, or one of them be left out')
    return False


def read_group(row: Mapping[str, Any]) -> str | None:
    """The group of a row; None where the field is missing, empty or NaN. A number with no fraction is an integer.

    Raises:
        RowFault: `wrong_shape`: it is no text, number or date.
    """
    value = row.get(GROUP)
    if value is None or isinstance(value, str):
        return value if value and value.strip() else None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | date | time):
        raise RowFault("wrong_shape", f'"{GROUP}" must be text or a number, got {show_value(value)}')
    if isinstance(value, float | Decimal):
        if math.isnan(value):
            return None
        if math.isfinite(value) and value == int(value):
            value = int(value)
    return str(value)
