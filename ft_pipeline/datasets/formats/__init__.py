"""One file per format; each turns a row into a conversation or says what is wrong with it.

The recipe takes the formats' names from here, so this imports nothing heavy.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ft_pipeline.datasets.conversation import Conversation
from ft_pipeline.datasets.formats.alpaca import parse_alpaca
from ft_pipeline.datasets.formats.chat_messages import parse_chat_messages
from ft_pipeline.datasets.formats.fields import GROUP, TAG, TAGS
from ft_pipeline.datasets.formats.prompt_completion import parse_prompt_completion
from ft_pipeline.datasets.formats.sharegpt import parse_sharegpt
from ft_pipeline.datasets.formats.text import parse_text

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Format:
    """A way to write a conversation into one row.

    Attributes:
        columns: What a row must have; by these a format is detected.
        parse: From a row that has them to its conversation; raises `RowFault`.
        optional: What else `parse` reads.
        read_plain: A short way from lines of JSON to the messages of each, which declines (None) unless `parse` would
            give the same of every line, and no group or tags.
    """

    columns: tuple[str, ...]
    parse: Callable[[Mapping[str, Any]], Conversation]
    optional: tuple[str, ...] = ()
    read_plain: Callable[[bytes], pa.ListArray | None] | None = None


def _read_plain_chat(lines: bytes) -> pa.ListArray | None:
    from ft_pipeline.datasets.formats.plain_chat import read_plain_chat

    return read_plain_chat(lines)


_BESIDE = ("system", "tools", "functions")
# In the order in which detection tries them: a row of Alpaca often has a `text` beside its own columns.
FORMATS = {
    "chat_messages": Format(("messages",), parse_chat_messages, _BESIDE, _read_plain_chat),
    "sharegpt": Format(("conversations",), parse_sharegpt, _BESIDE),
    "alpaca": Format(("instruction", "output"), parse_alpaca, ("input", "history", *_BESIDE)),
    "prompt_completion": Format(("prompt", "completion"), parse_prompt_completion, _BESIDE),
    "text": Format(("text",), parse_text),
}


def find_column_faults(columns: Mapping[str, str]) -> list[str]:
    """What is wrong with a recipe's `columns`, whatever the data: one sentence a fault."""
    of_formats = (column for kind in FORMATS.values() for column in (*kind.columns, *kind.optional))
    known = list(dict.fromkeys([*of_formats, GROUP, TAGS, TAG]))
    faults = []
    for ours, theirs in columns.items():
        if ours in known:
            continue
        near = difflib.get_close_matches(ours, known, n=1)
        if theirs in known:
            hint = f"the format's name comes first: {{{theirs}: {ours}}}."
        else:
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}."
        faults.append(f"no format has a column '{ours}'; {hint}")
    return faults
