from __future__ import annotations

import time
from typing import Any

import pytest
from pydantic import ValidationError

from ft_pipeline.evaluation.answer_check import AnswerCheck


@pytest.mark.parametrize(
    ("kind", "value", "answer", "passes"),
    [
        ("exact", "blue", " blue\n", True),
        ("exact", " blue ", "blue", True),
        ("exact", "blue", "Blue", False),
        ("exact", "", " ", True),
        ("number", "12", "It is 12.", True),
        ("number", "12", "3 * 4 = 12", True),
        ("number", "12", "12 = 3 * 4", False),
        ("number", "12", "12.0", True),
        ("number", "12", "**12**", True),
        ("number", "1200", "It costs $1,200.00.", True),
        ("number", "1000", "about 1\u00a0000 of them", True),
        ("number", "1234567.5", "1\u202f234\u202f567.5", True),
        ("number", "100000", "1e5", True),
        ("number", "-0.025", "is −2.5E-2.", True),
        ("number", "5", "5em", True),
        ("number", "-5", "The answer is -5", True),
        ("number", "-5", "The answer is −$5", True),
        ("number", "-5", "x=-5", True),
        ("number", "5", "10-5", True),  # a dash between two
        ("number", "3", "1,2,3", True),
        ("number", "0.5", "about .5", True),
        ("number", "24472", "order D24472", False),  # a code
        ("number", "12", "twelve", False),
        ("number", "12", "", False),
        ("contains", "Hello", "well, HELLO there", True),
        ("contains", "good morning", "Good\n morning!", True),
        ("contains", "cat", "concatenate", False),
        ("contains", "$5", "it costs US$5", True),
        ("contains", "$5", "it costs $50", False),
        ("contains", "東京", "私は東京都に住む", True),
        ("contains", "a.b", "axb", False),
        ("contains", "ﬁn", "fin", True),
        ("regex", r"\w+ \w+", " two words\n", True),
        ("regex", r"\w+", "two words", False),
        ("regex", r"yes", "Yes", False),
        ("regex", r"(?i)yes", "Yes", True),
        ("regex", r"a.b", "a\nb", False),
        ("regex", r"(?s)a.b", "a\nb", True),
        ("json_keys", "a, b", '{"b": 1, "a": {"c": 2}}', True),
        ("json_keys", "a, b", '{"a": 1}', False),
        ("json_keys", "a", '{"a": 1, "b": 2}', False),
        ("json_keys", "a", '["a"]', False),
        ("json_keys", "a", "a", False),
        ("json_keys", "a", '{"a": 1} ', True),
    ],
)
def test_an_answer_keeps_a_rule_or_does_not(kind: Any, value: str, answer: str, passes: bool) -> None:
    assert AnswerCheck(kind=kind, value=value).passes(answer) is passes


@pytest.mark.parametrize(
    ("kind", "value", "error"),
    [
        ("number", "twelve", "a check for a number must have a number; 'twelve' is none"),
        ("contains", " ", "a check for words must have one; its value is empty"),
        ("regex", "(", r"a pattern must be a regular expression; '\(' is none"),
        ("json_keys", "a,,b", "must have each once, separated by commas; it has 'a,,b'"),
        ("json_keys", "a,a", "must have each once, separated by commas; it has 'a,a'"),
        ("length", "5", "Input should be 'exact', 'number', 'contains', 'regex' or 'json_keys'"),
    ],
)
def test_a_rule_that_no_answer_can_keep_is_told_when_it_is_made(kind: Any, value: str, error: str) -> None:
    with pytest.raises(ValidationError, match=error):
        AnswerCheck(kind=kind, value=value)


def test_a_pattern_with_groups_is_good_for_a_whole_answer() -> None:
    assert AnswerCheck(kind="regex", value=r"(\w)(\w)\2\1").passes("abba")


def test_a_pattern_that_backtracks_without_end_is_given_up() -> None:
    started = time.perf_counter()
    assert not AnswerCheck(kind="regex", value=r"(?:(?:\w\w?)+)+!").passes("a" * 5000 + "?")
    assert time.perf_counter() - started < 3


@pytest.mark.parametrize("kind", ["exact", "number", "contains", "regex", "json_keys"])
@pytest.mark.parametrize("text", ["7 " * 100_000, "x" * 200_000, "[" * 200_000], ids=["numbers", "x", "brackets"])
def test_an_answer_of_200_000_characters_takes_no_seconds(kind: Any, text: str) -> None:
    check = AnswerCheck(kind=kind, value="5")
    started = time.process_time()
    assert not check.passes(text)
    assert time.process_time() - started < 2
