"""Fields beside a format's own columns, read by one rule whatever the format."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import date, time
from decimal import Decimal
from typing import Any

from ft_pipeline.datasets.conversation import Message, RowFault, show_value

# The column of any format whose rows stay on one side of the split.
GROUP = "group"
# What kind of row it is, in any format: the evaluation is broken down by it. `tag` is another spelling.
TAGS, TAG = "tags", "tag"
_MAX_TAGS, _MAX_TAG_CHARS = 8, 64
# They would break a table's line or a terminal's; what else cannot be seen, reports make visible.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


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
    return _read_label(row.get(GROUP), GROUP)


def read_tags(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The tags of a row, each once: a list of them, or one alone, each read as a group is.

    What cannot be a tag (another shape, more than 64 characters, control characters, a ninth) is left out: only a
    report hangs on it, and data may have a column of that name for something else.
    """
    value = row.get(TAGS if TAGS in row else TAG)
    tags: dict[str, None] = {}
    for item in value if isinstance(value, list) else [value]:
        with suppress(RowFault):
            label = (_read_label(item, TAG) or "").strip()
            if label and len(label) <= _MAX_TAG_CHARS and not _CONTROL.search(label):
                tags[label] = None
    return tuple(tags)[:_MAX_TAGS]


def _read_label(value: Any, column: str) -> str | None:
    if value is None or isinstance(value, str):
        return value if value and value.strip() else None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | date | time):
        raise RowFault("wrong_shape", f'"{column}" must be text or a number, got {show_value(value)}')
    if isinstance(value, float | Decimal):
        if math.isnan(value):
            return None
        if math.isfinite(value) and value == int(value):
            value = int(value)
    return str(value)
