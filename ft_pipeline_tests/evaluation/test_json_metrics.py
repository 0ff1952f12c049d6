from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.evaluation.metrics import METRICS
from ft_pipeline.evaluation.metrics.json_fields import compare_fields
from ft_pipeline.evaluation.metrics.json_text import is_json
from ft_pipeline.evaluation.rows import ScoredRow
from ft_pipeline_tests.evaluation.answers import answer, measure

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=2), JSON, max_size=4)


def value(name: str, *rows: ScoredRow) -> float | None:
    return measure(METRICS[name], *rows)


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [
        ('{"a": [1, null]}', True),
        (" [1]\n", True),
        ("5", True),
        ("9" * 5000, True),
        ("1e999", True),
        ("1e9999999999999999999999", False),
        ("", False),
        ('```json\n{"a": 1}\n```', False),
        ('{"a": 1} done', False),
        ("{'a': 1}", False),
        ('{"a": NaN}', False),
        ('{"a": -Infinity}', False),
        ('{"a": 1, "a": 2}', False),
        ('{"a": "line\nbreak"}', False),
        ("[" * 100_000, False),
        ("[" * 100_000 + "]" * 100_000, False),
        ('{"a":' * 100_000, False),
    ],
)
def test_json_is_what_any_consumer_would_take(text: str, is_valid: bool) -> None:
    assert is_json(text) is is_valid


def test_json_valid_counts_only_rows_that_want_an_object_or_a_list() -> None:
    rows = [answer('{"a": 2}', '{"a": 1}'), answer("no", "[1]"), answer("no", "5"), answer("no", "blue")]
    assert value("json_valid", *rows) == 0.5
    assert value("json_valid", answer("5", "5")) is None


def test_json_valid_wants_an_object_for_an_object_and_a_list_for_a_list() -> None:
    given_answers = ["5", "null", "[1]", ' {"b": 2}']
    assert [value("json_valid", answer(text, '{"a": 1}')) for text in given_answers] == [0, 0, 0, 1]
    assert [value("json_valid", answer(text, " [2]")) for text in given_answers] == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("wanted", "given_answer", "expected"),
    [
        ('{"a": 1, "b": "x"}', '{"b": "x", "a": 1}', 1),
        ('{"a": 1, "b": "x"}', '{"a": 1}', 1 / 2),
        ('{"a": 1, "b": "x"}', '{"a": 1, "b": "x", "c": 0}', 1 / 2),  # one too many
        ('{"a": 1}', '{"a": 1, "b": {"c": 1, "d": 2}}', 0),
        ('{"a": 1, "b": 2}', '{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}', 0),  # never below 0
        ('{"a": 1}', '{"a": 1.0}', 1),
        ('{"a": 1}', '{"a": true}', 0),
        ('{"a": 0}', '{"a": false}', 0),
        ('{"a": 1}', '{"a": "1"}', 0),
        ('{"a": null}', "{}", 0),
        ('{"a": %s}' % ("1" * 400), '{"a": %s}' % ("2" * 400), 0),
        ('{"a": %s}' % ("1" * 400), '{"a": %s.0}' % ("1" * 400), 1),
        ('{"a": 1e999}', '{"a": 2e999}', 0),
        ('{"a": 1e999}', '{"a": 10e998}', 1),
        ('{"a": {"b": 1, "c": 2}}', '{"a": {"b": 1, "c": 3}}', 1 / 2),
        ('{"a": {"b": 1, "c": 2}}', '{"a": 1}', 0),
        ('{"a": 1, "b": 2}', '{"a": {"c": 1}, "b": 2}', 1 / 2),  # wrong, and not too many
        ('{"a": [1, 2, 3]}', '{"a": [1, 2]}', 2 / 3),
        ('{"a": [1, 2]}', '{"a": [1, 2, 3]}', 1 / 2),
        ('{"a": []}', '{"a": []}', 1),
        ('{"a": []}', '{"a": {}}', 0),
        ("{}", "{}", 1),
        ('{"a": 1}', "no JSON", 0),
        ('{"a": 1}', '[{"a": 1}]', 0),
        ('{"a": 1}', '{"a": 1, "a": 1}', 0),
    ],
)
def test_json_fields_is_the_share_of_fields_that_are_right(wanted: str, given_answer: str, expected: float) -> None:
    assert value("json_fields", answer(given_answer, wanted)) == pytest.approx(expected)


def test_json_fields_is_taken_over_fields_and_not_over_rows() -> None:
    three, one = '{"a": 1, "b": 2, "c": 3}', '{"a": 1}'
    assert value("json_fields", answer(three, three), answer("{}", one)) == 3 / 4
    assert value("json_fields", answer("[1]", "[1]"), answer("blue")) is None


@given(wanted=OBJECTS, other=OBJECTS)
def test_json_fields_is_a_share_and_that_of_an_object_with_itself_is_1(wanted: Any, other: Any) -> None:
    reference = json.dumps(wanted)
    assert value("json_fields", answer(json.dumps(wanted, indent=2), reference)) == 1
    share = value("json_fields", answer(json.dumps(other), reference))
    assert share is not None
    assert 0 <= share <= 1
    assert (share == 1) == (normalize(wanted) == normalize(other))


def normalize(found: Any) -> str:
    """JSON whose numbers are written one way."""
    return json.dumps(json.loads(json.dumps(found), parse_int=float), sort_keys=True).replace("-0.0", "0.0")


@given(wanted=OBJECTS, other=JSON)
def test_what_is_wanted_does_not_depend_on_what_is_given(wanted: Any, other: Any) -> None:
    assert [path for path, _ in compare_fields(wanted, other)[0]] == [
        path for path, _ in compare_fields(wanted, None)[0]
    ]
