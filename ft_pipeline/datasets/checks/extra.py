"""What can be wrong with the text of tools and tool calls, which the chat template writes as well.

It is never mended: a checked row keeps its raw `extra`. So a breach there that the recipe wants fixed is a quarantine.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from ft_pipeline.datasets.checks import CHECKS
from ft_pipeline.datasets.checks.text import TextCheck, find_texts


def find_in_extras(extras: pl.Series, checks: Mapping[str, TextCheck], most_chars: int) -> dict[str, list[int]]:
    """Positions of conversations whose `extra` breaks a check, by reason code. Those that have none cost nothing.

    Args:
        extras: JSON of each conversation's tools and tool calls; null where there are none.
        checks: By reason code.
        most_chars: Longer ones are `message_too_long`, and not searched for minutes.
    """
    if extras.null_count() == len(extras):
        return {}
    # Rows often share their tools: a text that stands in many is looked at once.
    rows: dict[str, list[int]] = defaultdict(list)
    with_extra = extras.is_not_null().arg_true()
    for row, extra in zip(with_extra, extras.gather(with_extra), strict=True):
        for part in json.loads(extra).values():
            rows["\n".join(_read_texts(part))].append(row)
    texts, places = pl.DataFrame({"content": list(rows)}), list(rows.values())
    is_long = texts["content"].str.len_chars() > most_chars
    found = {
        code: {row for hit in find_texts(texts, check, is_long) for row in places[hit]}
        for code, check in checks.items()
    }
    found["message_too_long"] = {row for hit in is_long.arg_true() for row in places[hit]}
    return {code: sorted(hits) for code, hits in found.items() if hits}


def describe_breach(code: str) -> str:
    """The detail of a breach that stands in tools or tool calls."""
    return f"{CHECKS[code].rule}, and that of the tools or tool calls is not, where nothing is mended"


def _read_texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _read_texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _read_texts(item)
