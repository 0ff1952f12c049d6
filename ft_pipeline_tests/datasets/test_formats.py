from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_pipeline.datasets.conversation import RowFault, unpack
from ft_pipeline.datasets.formats import FORMATS
from ft_pipeline.datasets.formats.detect import Layout, choose_layout
from ft_pipeline.datasets.json_text import decode_json

FIXTURES = Path(__file__).parent / "formats"
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_makes_the_conversations_of_its_fixture(name: str) -> None:
    """Each fixture holds rows of the format, and what they must become."""
    cases = json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))
    assert cases
    for case in cases:
        layout = choose_layout(name, [case["row"]], "auto", {})
        assert layout.format == name
        conversation, group, tags = layout.parse(case["row"])
        assert [dict(message) for message in conversation.messages] == case["messages"]
        assert (conversation.extra and json.loads(conversation.extra)) == case.get("extra")
        assert (group, list(tags)) == (case.get("group"), case.get("tags", []))


_call = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": st.text(max_size=4)}, optional={"arguments": _json}) | _json},
    optional={"id": _json, "name": _json},
)
_ODD: st.SearchStrategy[Any] = st.sampled_from([None, True, 3, 1.5, "", "x", [], ["a"], [[]], [None], {}, {"a": 1}])
_turn = st.builds(
    lambda role, content, beside: {"role": role, "content": content} | beside,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    st.text(max_size=4),
    st.just({})
    | st.fixed_dictionaries({"tool_calls": _ODD | st.lists(_call | _ODD, max_size=2)})
    | st.fixed_dictionaries({"function_call": _ODD | _call})
    | st.dictionaries(st.sampled_from(["tool_call_id", "name", "reasoning_content", "content"]), _ODD, max_size=1)
    | st.fixed_dictionaries({"weight": st.sampled_from([0, 1]) | _ODD}),
) | st.fixed_dictionaries(
    {
        "from": st.sampled_from(["human", "function_call", "observation"]),
        "value": (_ODD | _call | st.lists(_call)).map(json.dumps) | _ODD,
    }
)
_turns = st.lists(_turn, min_size=1, max_size=3)
_VALID: dict[str, st.SearchStrategy[Any]] = {"messages": _turns, "conversations": _turns, "prompt": st.text() | _turns}


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=300)
@given(data=st.data())
def test_any_row_is_a_conversation_or_a_fault(name: str, data: st.DataObject) -> None:
    """With required columns of any kind or of the right one, so that what stands beside them is read too."""
    is_right = data.draw(st.integers(0, 3)) > 0
    right = {column: _VALID.get(column, st.text(max_size=8)) for column in FORMATS[name].columns}
    row = {column: data.draw(values if is_right else _json) for column, values in right.items()}
    lists = st.lists(st.dictionaries(st.sampled_from(["name", "type", "function"]), _json), max_size=2)
    beside = st.sampled_from([*FORMATS[name].optional, "group", "tags", "tag"])
    row |= data.draw(st.dictionaries(beside, _ODD | _json | lists | lists.map(json.dumps), max_size=2))
    try:
        conversation, *_ = Layout(name, {}).parse(row)
    except RowFault as err:
        assert err.code in {"wrong_shape", "not_text", "too_deep"}  # noqa: PT017
        return
    messages, tools = unpack(conversation.messages, conversation.extra)
    assert all(isinstance(value, str) for turn in conversation.messages for value in turn.values())
    assert all(isinstance(tool, dict) for tool in tools or ())
    # What the renderer goes by.
    calls = [call for message in messages for call in message.get("tool_calls", ())]
    assert all(isinstance(call.get("function", call)["name"], str) for call in calls)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("chat_messages", {"messages": []}, '"messages" must be a list of messages, got \\[\\]'),
        ("chat_messages", {"messages": ["hi"]}, "item 1 of \"messages\" must be an object, got 'hi'"),
        ("chat_messages", {"messages": [{"role": 7, "content": "hi"}]}, '"role" of message 1 must be text, got 7'),
        ("chat_messages", {"messages": [{"role": "user"}]}, '"content" of message 1 must be text, got None'),
        ("sharegpt", {"conversations": [{"from": 1, "value": "x"}]}, '"from" of message 1 must be text, got 1'),
        ("alpaca", {"instruction": "x", "output": None}, '"output" must be text, got None'),
        ("prompt_completion", {"prompt": "x", "completion": 3}, "must both be text or both be lists"),
        ("text", {"text": 3}, '"text" must be text, got 3'),
        ("text", ["x"], "a row must be an object, got list"),
    ],
)
def test_says_what_is_wrong_with_a_row(name: str, row: Any, message: str) -> None:
    with pytest.raises(RowFault, match=message) as caught:
        Layout(name, {}).parse(row)
    assert caught.value.code == "wrong_shape"


def test_a_picture_among_the_messages_is_named() -> None:
    row = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}
    with pytest.raises(RowFault, match="message 1 holds something other than text") as caught:
        Layout("chat_messages", {}).parse(row)
    assert caught.value.code == "not_text"


def test_tools_come_back_as_templates_take_them() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]
    row = {
        "messages": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": None, "tool_calls": calls}],
        "tools": [{"type": "function", "function": {"name": "add"}}],
    }
    conversation, *_ = Layout("chat_messages", {}).parse(row)
    messages, tools = unpack(conversation.messages, conversation.extra)
    assert messages[1] == {"role": "assistant", "content": "", "tool_calls": calls}
    assert tools == row["tools"]


@given(_json)
def test_json_is_read_as_python_reads_it(value: Any) -> None:
    for indent in (None, 1):
        assert decode_json(json.dumps(value, ensure_ascii=False, indent=indent).encode()) == value


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_json_or_a_fault(raw: bytes) -> None:
    code = ""
    try:
        assert decode_json(raw) == json.loads(raw.decode())
    except RowFault as err:
        code = err.code
    known = {"invalid_json", "invalid_utf8", "invalid_unicode", "duplicate_key", "not_finite", "too_deep"}
    assert code in known | {""}


@pytest.mark.parametrize(
    ("raw", "code", "column"),
    [
        (b'{"messages": [{"role": "user"', "invalid_json", 30),
        (b'{"a": NaN}', "not_finite", 0),
        (b'{"a": 1e999}', "not_finite", 0),
        (b"[" * 100_000, "too_deep", 0),
        (b'{"a": "\\ud800"}', "invalid_unicode", 8),
        (b'{"a": "\xff"}', "invalid_utf8", 8),
        (b'{"a": 1, "a": 2}', "duplicate_key", 0),
        (b'{"a": 1, "a" : 2}', "duplicate_key", 0),
        (b'{"x": {"a": 1, "a": "\\":"}}', "duplicate_key", 0),
        (b'{"k\\\\": 1, "a": 1, "a": 2}', "duplicate_key", 0),
        (b"{'a': 1}", "invalid_json", 2),
        (b'{"a": 1} x', "invalid_json", 10),
    ],
)
def test_a_fault_of_json_has_its_reason_and_column(raw: bytes, code: str, column: int) -> None:
    with pytest.raises(RowFault) as caught:
        decode_json(raw)
    assert (caught.value.code, caught.value.column) == (code, column)
