from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.datasets.formats import RowFault, parse_chat_messages

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
_messages = st.lists(st.fixed_dictionaries({"role": _text, "content": _text}), min_size=1, max_size=5)


@given(_messages)
def test_parses_what_json_writes(messages: list[dict[str, str]]) -> None:
    assert parse_chat_messages(json.dumps({"messages": messages})) == messages


@given(st.text())
def test_any_text_is_a_conversation_or_a_fault(text: str) -> None:
    code = ""
    try:
        parse_chat_messages(text)
    except RowFault as err:
        code = err.code
    assert code in {"invalid_json", "wrong_shape"}


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ('{"messages": [{"role": "user"', "invalid_json", "not valid JSON"),
        ('{"messages": NaN}', "invalid_json", "NaN is no JSON"),
        ("[" * 100_000, "invalid_json", "not valid JSON"),
        ("[]", "wrong_shape", 'expected an object with a list "messages"'),
        ('{"messages": []}', "wrong_shape", 'expected an object with a list "messages"'),
        ('{"messages": ["hi"]}', "wrong_shape", "message 1 must be an object, got 'hi'"),
        ('{"messages": [{"role": 7, "content": "hi"}]}', "wrong_shape", '"role" of message 1 must be text, got 7'),
        ('{"messages": [{"role": "user"}]}', "wrong_shape", '"content" of message 1 must be text, got None'),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "invalid_unicode", "half a surrogate pair"),
    ],
)
def test_says_what_is_wrong_with_a_row(text: str, code: str, message: str) -> None:
    with pytest.raises(RowFault, match=message) as caught:
        parse_chat_messages(text)
    assert caught.value.code == code
