from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.datasets.formats import Message
from ft_pipeline.datasets.split import conversation_key, normalize, prompt_of, split_position

_texts = st.text(min_size=1, max_size=40)


def _conversation(prompt: str, answer: str = "ok") -> list[Message]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


@given(_texts, st.text(max_size=8))
def test_a_position_is_in_range_and_always_the_same(prompt: str, salt: str) -> None:
    position = split_position(prompt, salt)
    assert 0 <= position < 1
    assert position == split_position(prompt, salt)


@given(_texts)
def test_the_side_hangs_on_the_prompt_and_not_on_its_spelling(prompt: str) -> None:
    respelled = _conversation(f"  {prompt.upper().lower()}\n")
    original = _conversation(prompt.upper().lower(), "another answer")
    assert prompt_of(respelled) == prompt_of(original)


@given(_texts)
def test_normalizing_twice_changes_nothing_more(text: str) -> None:
    once = normalize(normalize(text))
    assert normalize(once) == once


def test_the_held_out_share_is_about_what_was_asked_for() -> None:
    positions = [split_position(f"prompt {number}", "salt") for number in range(20_000)]
    assert abs(sum(position < 0.1 for position in positions) / len(positions) - 0.1) < 0.01


def test_the_salt_changes_who_is_held_out() -> None:
    prompts = [f"prompt {number}" for number in range(200)]
    sides = [{prompt for prompt in prompts if split_position(prompt, salt) < 0.5} for salt in ("a", "b")]
    assert sides[0] != sides[1]


def test_the_first_user_turn_is_the_prompt() -> None:
    messages = [Message(role="system", content="S"), *_conversation("First"), *_conversation("Second")]
    assert prompt_of(messages) == "first"


def test_equal_conversations_have_one_key_and_moved_words_do_not() -> None:
    assert conversation_key(_conversation("a  b", "C")) == conversation_key(_conversation("A b", "c"))
    assert conversation_key(_conversation("a b", "c")) != conversation_key(_conversation("a", "b c"))
