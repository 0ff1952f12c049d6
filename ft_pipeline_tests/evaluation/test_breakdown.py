from __future__ import annotations

from typing import Any

import pytest

from ft_pipeline.evaluation.answer_check import AnswerCheck
from ft_pipeline.evaluation.breakdown import ERROR_KINDS, classify_error, json_field_accuracy
from ft_pipeline.evaluation.metrics import answer_match_metric
from ft_pipeline_tests.evaluation.answers import answer

JSON = '{"a": 1, "b": [2]}'
IS_WORD = AnswerCheck(kind="regex", value=r"\w+")


@pytest.mark.parametrize(
    ("prediction", "reference", "changes", "kind"),
    [
        ("blue ", "blue", {}, None),
        ("blue", "blue", {"stopped": False}, None),
        ("", "blue", {"fault": "too long"}, "not asked"),
        (" ", "blue", {}, "empty"),
        ("a" * 300, "blue", {"stopped": False}, "repeats itself"),
        ("and so on", "blue", {"stopped": False}, "never stopped"),
        ("I'm sorry, but I can't help.", "blue", {}, "refusal"),
        ("I'm sorry, but I can't help.", JSON, {}, "refusal"),
        ("a: 1", JSON, {}, "invalid JSON"),
        ('{"a": 1, "b": [3]}', JSON, {}, "wrong fields"),
        ('{"a": 1, "b": [2], "c": 3}', JSON, {}, "wrong fields"),
        ("[1, 2]", "[1, 3]", {}, "wrong fields"),
        ('{"b": [2], "a": 1}', JSON, {}, "right, but other text"),
        ("#### 5", "#### 4", {}, "wrong answer"),
        ("4", "#### 4", {}, "wrong answer"),
        ("so\n#### 4", "#### 4", {}, "right, but other text"),
        ("red", "blue", {}, "other text"),
        ("red", "blue", {"check": IS_WORD}, None),
        ("dark red", "dark red", {"check": IS_WORD}, "wrong answer"),
        ("", "blue", {"check": IS_WORD}, "empty"),
    ],
)
def test_an_error_has_the_first_kind_that_fits(
    prediction: str, reference: str, changes: dict[str, Any], kind: str | None
) -> None:
    assert classify_error(answer(prediction, reference, **changes)) == kind
    assert kind is None or kind in ERROR_KINDS


def test_a_final_answer_is_found_by_the_pattern_of_the_recipe() -> None:
    metric = answer_match_metric(r"answer: (\w)")
    assert classify_error(answer("answer: b", "answer: a"), metric) == "wrong answer"
    assert classify_error(answer("answer: b", "answer: a")) == "other text"


def test_fields_are_counted_by_their_path_over_all_rows() -> None:
    rows = [
        answer(
            '{"a": 1, "b": {"c": "x"}, "items": [{"n": 1}, {"n": 0}]}',
            '{"a": 1, "b": {"c": "y"}, "items": [{"n": 1}, {"n": 2}]}',
        ),
        answer("no JSON", '{"a": 1}'),
        answer('{"a": 1}', '{"a": 1}', fault="too long"),
        answer("blue"),
    ]
    assert json_field_accuracy(rows) == {"a": (1, 3), "b.c": (0, 1), "items[].n": (1, 2)}


def test_a_field_whose_name_is_no_unicode_can_be_written() -> None:
    assert json_field_accuracy([answer("{}", r'{"\ud800": 1}')]) == {r"\ud800": (0, 1)}
