from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.datasets.conversation import Message
from ft_pipeline.datasets.split import conversation_keys, describe_rows, normalize, normalize_all, split_hashes
from ft_pipeline.datasets.turns import MESSAGES, Turns

_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def _conversation(prompt: str, answer: str = "ok") -> list[Message]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _describe(messages: list[Message]) -> tuple[str, str]:
    """Whole text and prompt."""
    described = describe_rows(Turns.read(pl.Series([messages], dtype=MESSAGES)))
    return described["text"][0], described["asked"][0]


def _position(prompt: str, salt: str = "salt") -> float:
    return float(split_hashes(pl.Series([prompt]), salt)[1][0])


@given(_texts, st.text(max_size=8))
def test_a_position_is_in_range_and_always_the_same(prompt: str, salt: str) -> None:
    position = _position(prompt, salt.encode("utf-8", "ignore").decode())
    assert 0 <= position < 1
    assert position == _position(prompt, salt.encode("utf-8", "ignore").decode())


@given(_texts)
def test_the_side_hangs_on_the_prompt_and_not_on_its_spelling(prompt: str) -> None:
    respelled = _conversation(f"  {prompt.upper().lower()}\n")
    original = _conversation(prompt.upper().lower(), "another answer")
    assert _describe(respelled)[1] == _describe(original)[1]


@given(_texts)
def test_normalizing_twice_changes_nothing_more(text: str) -> None:
    once = normalize(normalize(text))
    assert normalize(once) == once


@given(st.lists(_texts | st.text(st.characters(max_codepoint=127), max_size=30), min_size=1, max_size=6))
def test_a_column_is_normalized_as_each_text_is(texts: list[str]) -> None:
    assert normalize_all(pl.Series(texts, dtype=pl.String)).to_list() == [normalize(text) for text in texts]


def test_the_held_out_share_is_about_what_was_asked_for() -> None:
    positions = [_position(f"prompt {number}") for number in range(20_000)]
    assert abs(sum(position < 0.1 for position in positions) / len(positions) - 0.1) < 0.01


def test_the_salt_changes_who_is_held_out() -> None:
    prompts = [f"prompt {number}" for number in range(200)]
    sides = [{prompt for prompt in prompts if _position(prompt, salt) < 0.5} for salt in ("a", "b")]
    assert sides[0] != sides[1]


def test_the_first_user_turn_is_the_prompt() -> None:
    messages = [Message(role="system", content="S"), *_conversation("First"), *_conversation("Second")]
    assert _describe(messages)[1] == "first"


def test_plain_text_is_its_own_prompt() -> None:
    assert _describe([{"role": "text", "content": "A  document"}])[1] == "a document"


def test_equal_conversations_have_one_key_and_moved_words_do_not() -> None:
    def key(messages: list[Message], extra: str | None = None) -> bytes:
        return conversation_keys(pl.Series([_describe(messages)[0]]), pl.Series([extra], dtype=pl.String))[0]

    assert key(_conversation("a  b", "C")) == key(_conversation("A b", "c"))
    assert key(_conversation("a b", "c")) != key(_conversation("a", "b c"))
    assert key(_conversation("a", "b")) != key(_conversation("a", "b"), '{"tools": []}')
