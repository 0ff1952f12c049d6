"""The plainest chat messages, many rows at once: nothing but roles and texts, decoded by Arrow to columns.

It is for speed alone. Whatever is not plain (another field, a fault, a blank line) makes it decline, and the rows are
then read one by one.
"""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from ft_pipeline.datasets.conversation import ROLES
from ft_pipeline.datasets.readers.batch import MAX_ROW_BYTES

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_SCHEMA = pa.schema([("messages", MESSAGES)])
_OPEN, _CLOSE = ord("{"), ord("}")
_OPTIONS = pj.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="error")


def read_plain_chat(lines: bytes) -> pa.ListArray | None:
    """The messages of lines of JSON, one list a line; None unless all of them are plain and sound.

    Arrow refuses keys that stand twice, values that are no text, and text that is no Unicode.
    """
    count = _count_rows(lines)
    if not count or len(lines) > MAX_ROW_BYTES:
        return None
    options = pj.ReadOptions(use_threads=False, block_size=len(lines) + 1)
    try:
        table = pj.read_json(io.BytesIO(lines), read_options=options, parse_options=_OPTIONS)
        table.validate(full=True)
    except (pa.ArrowInvalid, UnicodeDecodeError):  # the second from the text of an error
        return None
    messages = table.column("messages").combine_chunks()
    turns = messages.flatten()
    roles, contents = turns.field("role"), turns.field("content")
    has_gaps = any(column.null_count for column in (messages, turns, roles, contents))
    if len(messages) != count or has_gaps or pc.min(pc.list_value_length(messages)).as_py() == 0:
        return None
    return messages if set(pc.unique(roles).to_pylist()) <= set(ROLES) else None


def _count_rows(lines: bytes) -> int:
    """How many lines there are, if each begins and ends as an object does; else 0.

    With as many rows as such lines, no row is on two lines and no line holds two.
    """
    body = np.frombuffer(lines.removesuffix(b"\n"), np.uint8)
    breaks = np.flatnonzero(body == ord("\n"))
    if not len(body) or body[0] != _OPEN or body[-1] != _CLOSE:
        return 0
    is_sound = (body[breaks - 1] == _CLOSE).all() and (body[breaks + 1] == _OPEN).all()
    return len(breaks) + 1 if is_sound else 0
