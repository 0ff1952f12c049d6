"""The plainest chat messages, many rows at once: nothing but roles and texts, decoded by Arrow to columns.

It is for speed alone. Whatever is not plain (another field, a fault, a blank line) makes it decline, and the rows are
then read one by one.
"""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from ft_pipeline.datasets.conversation import ROLES
from ft_pipeline.datasets.readers.batch import MAX_ROW_BYTES

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_SCHEMA = pa.schema([("messages", MESSAGES)])
_OPTIONS = pj.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="error")


def read_plain_chat(lines: bytes) -> pa.ListArray | None:
    """The messages of lines of JSON, one list a line; None unless all of them are plain and sound.

    Arrow refuses keys that stand twice, values that are no text, and text that is no Unicode.
    """
    count = lines.count(b"\n") + (not lines.endswith(b"\n"))
    # With as many rows as lines, no row is on two lines and no line holds two.
    is_row_by_row = lines.startswith(b"{") and lines.count(b"}\n{") == count - 1
    if not is_row_by_row or len(lines) > MAX_ROW_BYTES:
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
