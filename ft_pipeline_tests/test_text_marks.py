from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.text_marks import MAX_CHARS, mark_differences, shorten, show_plain, show_text

TAGS = re.compile(r'</?(?:ins|del|span)(?: class="(?:whole|escape|cut)")?>')


@given(st.text(max_size=80), st.text(max_size=80))
def test_whatever_a_model_says_only_our_own_tags_are_in_the_html(reference: str, text: str) -> None:
    bare = TAGS.sub("", mark_differences(reference, text))
    assert "<" not in bare
    assert ">" not in bare


@given(st.text(alphabet='abc {}":,', max_size=60), st.text(alphabet='abc {}":,', max_size=60))
def test_the_marked_text_is_the_text_once_what_is_missing_is_left_out(reference: str, text: str) -> None:
    marked = re.sub(r"<del>.*?</del>", "", mark_differences(reference, text), flags=re.DOTALL)
    assert unescape(TAGS.sub("", marked)) == text


def test_marks_what_is_wrong_and_what_is_missing() -> None:
    marked = mark_differences('{"urgency": "low", "n": 1}', '{"urgency": "high", "n": 1}')
    assert marked == "{&#34;urgency&#34;: &#34;<del>low</del><ins>high</ins>&#34;, &#34;n&#34;: 1}"


def test_a_text_that_shares_nothing_is_one_mark() -> None:
    assert mark_differences("blue", "salad fork") == '<ins class="whole">salad fork</ins>'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", r"\x1b"),
        ("\u202e", r"\u202e"),
        ("\x00", r"\x00"),
        ("\u200b", r"\u200b"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_characters_that_cannot_be_seen_are_written_out(text: str, shown: str) -> None:
    assert f'<span class="escape">{shown}</span>' in show_text(text)
    assert text[0] not in show_text(text)
    assert show_plain(text).startswith(shown)


def test_plain_text_keeps_the_line_breaks_that_it_is_told_to_keep() -> None:
    assert show_plain("a\nb\t", keep="\n") == "a\nb\\x09"


def test_a_long_text_is_cut_and_says_so() -> None:
    shown = show_text("x" * (MAX_CHARS + 1234))
    assert shown.startswith("x" * MAX_CHARS + "<span")
    assert "1,234 more characters" in shown


@pytest.mark.parametrize("inside", [1, 4, 39])
@pytest.mark.parametrize(
    "show",
    [
        show_text,
        shorten,
        lambda text: show_plain(text, MAX_CHARS),
        lambda text: mark_differences("x" * MAX_CHARS, text),
        lambda text: mark_differences(text, "another text"),
    ],
)
def test_a_key_that_a_cut_goes_through_is_not_shown(show: Callable[[str], str], inside: int) -> None:
    key = "ghp_" + "A1b2C3d4E5f6" * 3
    text = "x" * (MAX_CHARS - inside - 1) + " " + key
    assert not re.search(r"ghp|A1b|b2C|3d4|E5f", show(text))


def test_plain_text_has_no_keys() -> None:
    assert show_plain("my key hf_" + "aB3" * 12 + "\x1b") == "my key [SECRET]\\x1b"
