"""The short way through plain chat messages, against the long one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ft_pipeline.datasets.conversation import ROLES, RowFault
from ft_pipeline.datasets.formats.chat_messages import parse_chat_messages
from ft_pipeline.datasets.formats.plain_chat import read_plain_chat
from ft_pipeline.datasets.readers.batch import Batch

_TEXT = st.text(max_size=6) | st.sampled_from(["", "\x00", "\x7f\x85", "\u2028", "}\n{", "é😀", '"\\', "a\tb"])
_ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 3, 1.5, [], {}, ["a"], {"a": 1}, [{"type": "text", "text": "a"}]]
)
_TURN = st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": _TEXT})
_ODD_TURN: st.SearchStrategy[Any] = (
    st.fixed_dictionaries({"role": st.sampled_from(["developer", "function", "human", "User", ""]), "content": _TEXT})
    | st.fixed_dictionaries({"role": _TEXT | _ODD, "content": _TEXT | _ODD})
    | st.fixed_dictionaries({"role": st.just("assistant"), "content": _TEXT, "name": _TEXT | _ODD})
    | st.fixed_dictionaries({"role": st.just("assistant"), "content": _TEXT, "tool_calls": _ODD})
    | st.fixed_dictionaries({"role": st.just("assistant"), "content": _TEXT, "weight": st.sampled_from([0, 1, 2])})
    | st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt"]), "value": _TEXT})
    | st.fixed_dictionaries({"role": st.just("user")})
    | _ODD
)
_PLAIN = st.lists(_TURN, min_size=1, max_size=3).map(lambda turns: {"messages": turns})
_ODD_ROW: st.SearchStrategy[Any] = (
    st.lists(_TURN | _ODD_TURN, max_size=3).map(lambda turns: {"messages": turns})
    | st.tuples(_PLAIN, st.sampled_from(["id", "group", "tags", "tag", "tools", "system", "functions"]), _ODD).map(
        lambda drawn: drawn[0] | {drawn[1]: drawn[2]}
    )
    | _ODD.map(lambda value: {"messages": value})
    | _ODD
)
# What no dictionary of Python says.
_RAW = st.sampled_from(
    [
        b'{"messages": [{"role": "user", "role": "user", "content": "a"}]}',
        b'{"messages": [{"role": "user", "content": "a", "content": "b"}]}',
        b'{"messages": [{"role": "user", "content": "a"}], "messages": [{"role": "user", "content": "b"}]}',
        rb'{"messages": [{"rol\u0065": "user", "content": "a", "role": "tool"}]}',
        rb'{"m\u0065ssages": [{"role": "us\u0065r", "content": "\u0000\ud83d\ude00\/"}]}',
        b'{"messages": [{"role": "user", "content": NaN}]}',
        b'{"messages": [{"role": "user", "content": 1e999}]}',
        rb'{"messages": [{"role": "user", "content": "\q"}]}',
        rb'{"messages": [{"role": "user", "content": "\ud800"}]}',
        rb'{"messages": [{"role": "user", "content": "\udc00\ud800"}]}',
        rb'{"messages": [{"role": "user", "content": "\u12"}]}',
        b'{"messages": [{"role": "user", "content": "\xed\xa0\x80"}]}',
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": [{"role": "user", "content": "\xc0\x80"}]}',
        b'{"messages": [{"role": "user", "content": "a\0b"}]}',
        b'{"messages": [{"role": "user", "content": "a\x01\tb"}]}',
        b'{"messages": [{"role": "user", "content": "a"}]}\0',
        b'{"messages": [{"role": "user", "content": "a"}]}\0{}',
        b'{"messages": [{"role": "user", "content": "a"}]}\0\n{"messages": [',
        b'{"messages": [{"role": "user", "content": "a"}\n{"role": "tool", "content": "b"}]}',
        b'{"messages": [{"role": "user", "content": "a"},]}',
        b"{'messages': [{'role': 'user', 'content': 'a'}]}",
        b'{"messages": [{"role": "user", "content": "a"}]} x',
        b'{"messages": [{"role": "user", "content": "a"}]}}',
        b'{"messages": [{"role": "user", "content": "a"}]',
        b'{"messages": [{"role": "user", "content": "a"}]}{"messages": [{"role": "user", "content": "b"}]}',
        b'{"messages": [{"role": "user", "content": "a"}]} {"messages": [',
        b'{"role": "user", "content": "a"}]}',
        b'{"messages": [{"role": "user", "content": "a}\n{b"}]}',
        b'{"messages":\n[{"role": "user", "content": "a"}]}',
        b'\xef\xbb\xbf{"messages": [{"role": "user", "content": "a"}]}',
        b' {"messages": [{"role": "user", "content": "a"}]} ',
        b'/**/{"messages": [{"role": "user", "content": "a"}]}',
        b"",
        b" ",
        b"\0",
        b"{}",
        b"{",
        b"}",
    ]
)
_EITHER = st.booleans()
_ONE = b'{"messages": [{"role": "user", "content": "a"}]}'
_TWO = _ONE + _ONE
_BROKEN = _ONE.replace(b": [", b":\n[")


@st.composite
def _line(draw: st.DrawFn) -> bytes:
    """A line as it stands in a file: plain three times in four."""
    if draw(st.integers(0, 3)):
        value: Any = draw(_PLAIN)
    elif draw(_EITHER):
        return draw(_RAW)
    else:
        value = draw(_ODD_ROW)
    is_ascii = draw(_EITHER)
    separators = (",", ":") if draw(_EITHER) else None
    return json.dumps(value, ensure_ascii=is_ascii, separators=separators).encode("utf-8", "surrogatepass")


@st.composite
def _lines(draw: st.DrawFn) -> bytes:
    separator = draw(st.sampled_from([b"\n"] * 6 + [b"\r\n", b"\n\n", b"", b",\n", b"\r"]))
    return separator.join(draw(st.lists(_line(), min_size=1, max_size=4))) + draw(
        st.sampled_from([b"", b"\n", b"\r\n", b"\n\n", b"\n\0", b"\n "])
    )


def _read_slowly(lines: bytes) -> list[Any]:
    rows: list[Any] = []
    for record in Batch(lines=lines).decode():
        try:
            if record.fault:
                raise record.fault
            assert type(record.value) is dict
            assert set(record.value) == {"messages"}
            conversation = parse_chat_messages(record.value)
        except (RowFault, AssertionError) as err:
            rows.append(err)
        else:
            rows.append(conversation.messages if conversation.extra is None else conversation)
    return rows


@settings(max_examples=500, deadline=None)
@given(_lines())
@example(_TWO + b"\n" + _BROKEN)
@example(_BROKEN + b"\n" + _TWO)
@example(_ONE.replace(b"user", b"developer"))
@example(_ONE.replace(b"user", b"human") + b"\n" + _ONE)
@example(_ONE + b"\n" + _ONE.replace(b'"a"', b"null"))
@example(_ONE.replace(b'"user"', b"null"))
@example(_ONE.replace(b"]", b", null]"))
@example(b'{"messages": null}\n' + _ONE)
@example(b"{}\n" + _ONE)
def test_the_short_way_declines_or_gives_what_the_long_one_gives(lines: bytes) -> None:
    messages = read_plain_chat(lines)
    assert messages is None or messages.to_pylist() == _read_slowly(lines)


@given(st.lists(_PLAIN, min_size=1, max_size=5), st.booleans())
def test_plain_rows_take_the_short_way(rows: list[Any], is_closed: bool) -> None:
    lines = "\n".join(json.dumps(row) for row in rows) + "\n" * is_closed
    messages = read_plain_chat(lines.encode())
    assert messages is not None
    assert messages.to_pylist() == [row["messages"] for row in rows]


@pytest.mark.parametrize("field", ["name", "weight", "reasoning_content", "tool_calls"])
def test_what_a_turn_holds_beside_its_text_takes_the_long_way(field: str) -> None:
    assert read_plain_chat(json.dumps({"messages": [{"role": "user", "content": "a", field: None}]}).encode()) is None
