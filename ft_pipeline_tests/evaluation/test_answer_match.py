from __future__ import annotations

import time

import pytest

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.metrics import METRICS, answer_match_metric
from ft_pipeline_tests.evaluation.answers import answer, measure


@pytest.mark.parametrize(
    ("given_answer", "is_right"),
    [
        ("so 1,200\n#### 1200", True),
        ("#### 1,200.00", True),
        ("#### $1,200", True),
        ("####1200.", True),
        ("#### 1200 apples", True),
        ("#### 1\u00a0200", True),
        ("#### 1.2e3", True),
        ("#### 7\nno:\n#### 1200", False),
        ("#### 1200\n\nQuestion: how many?\n#### 7", True),
        ("#### -1200", False),
        ("#### 120", False),
        ("1200", False),
        ("#### many", False),
        ("", False),
    ],
)
def test_answer_match_compares_the_numbers_after_the_first_marks_of_gsm8k(given_answer: str, is_right: bool) -> None:
    assert measure(METRICS["answer_match"], answer(given_answer, "600 + 600\n#### 1,200")) == is_right


@pytest.mark.parametrize("text", ["#### -$5", "#### $-5", "#### −5.0", "####  - 5"])
def test_a_sign_may_stand_before_a_currency_or_after_it(text: str) -> None:
    assert measure(METRICS["answer_match"], answer(text, "#### -5")) == 1


def test_answer_match_leaves_out_rows_whose_reference_has_no_final_answer() -> None:
    assert (
        measure(METRICS["answer_match"], answer("#### 4", "#### 4"), answer("5", "no marks"), answer("5", "#### Notes"))
        == 1
    )
    assert measure(METRICS["answer_match"], answer("blue")) is None


@pytest.mark.parametrize(
    ("pattern", "given_answer", "reference", "expected"),
    [
        (r"answer: (\w+)", "answer: B\nanswer: a ", "answer: A", 1),
        (r"answer: (\w+)", "A", "answer: A", 0),
        (r"\d+", "it is 4, no, 05", "5", 1),
        (r"\\boxed\{(.*?)\}", r"\boxed{1,000.0}", r"\boxed{1000}", 1),
        (r"(?i)yes|no", "No. Yes", "yes", 1),
        (r"x(\d)?", "x1 x", "x1", 1),  # a group that took no part is no answer
    ],
)
def test_a_pattern_of_the_recipe_finds_the_final_answer(
    pattern: str, given_answer: str, reference: str, expected: float
) -> None:
    assert measure(answer_match_metric(pattern), answer(given_answer, reference)) == expected


@pytest.mark.parametrize(
    ("pattern", "error"),
    [
        ("(", r"a pattern must be a regular expression; '\(' is none: missing \) at position 1"),
        ("(a)(b)", r"must have one group at most, the answer; '\(a\)\(b\)' has 2. Write the others as \(\?:...\)"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_told(pattern: str, error: str) -> None:
    with pytest.raises(EvaluationError, match=error):
        answer_match_metric(pattern)


def test_a_pattern_that_backtracks_without_end_finds_nothing_and_does_not_hang() -> None:
    metric = answer_match_metric(r"^(?:(?:\w\w?)+)+!$")
    started = time.perf_counter()
    assert measure(metric, answer("a" * 5000 + "?", "right!")) == 0
    assert time.perf_counter() - started < 3
