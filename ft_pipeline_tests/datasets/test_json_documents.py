"""JSON documents of chats: what a broken row, or a text behind the array, costs the others."""

from __future__ import annotations

import json
import time

import pytest

from ft_pipeline_tests.datasets.data_folder import good
from ft_pipeline_tests.datasets.records import faults, read_records, values

_ROWS = [good(number) for number in range(100)]
_ROW = good(1000)
_QUESTION = "say the word 1000"
_BROKEN = {
    "no_quotes": _ROW.replace(f'"{_QUESTION}"', _QUESTION),
    "quote_missing": _ROW.replace(f'"{_QUESTION}"', f'"{_QUESTION}'),
    "quote_inside": _ROW.replace(_QUESTION, 'a "word" here'),
    "escape": _ROW.replace(_QUESTION, r"\q"),
    "not_finite": _ROW.replace(f'"{_QUESTION}"', "NaN"),
    "key_twice": _ROW.replace('"role": "user",', '"role": "user", "role": "user",'),
    "surrogate": _ROW.replace(_QUESTION, r"\ud800"),
    "break_in_text": _ROW.replace(_QUESTION, "say\nit"),
    "brackets_missing": _ROW[:-2],
    "brace_missing": _ROW[:-1],
    "brace_too_many": _ROW + "}",
    "brackets_swapped": _ROW.replace("}]}", "}}]"),
    "single_quotes": _ROW.replace('"', "'"),
    "brackets_in_text": _ROW.replace('"role": "user",', '"role": "user, }]},'),
    "word": "broken",
}
_STYLES = {
    "rows_on_lines": ("[\n", ",\n", "\n]"),
    "one_line": ("[", ",", "]"),
    "brackets_beside_rows": ("[", ",\n", "]"),
    "rows_without_array": ("", "\n", "\n"),
}


_PLACES = [
    (name, at, style)
    for name in _BROKEN
    for at in (0, 10, 99)
    for style in _STYLES
    if (name, at, style) != ("word", 0, "rows_without_array")  # a document must begin as one
]


@pytest.mark.parametrize(("name", "at", "style"), _PLACES)
def test_a_broken_row_of_a_document_costs_no_row_behind_it(name: str, at: int, style: str) -> None:
    opening, between, closing = _STYLES[style]
    records = read_records("json", opening + between.join([*_ROWS[:at], _BROKEN[name], *_ROWS[at + 1 :]]) + closing)
    kept = [json.loads(row) for row in _ROWS]
    # What stands before a brace too many is a whole row.
    kept[at : at + 1] = [json.loads(_ROW)] if name == "brace_too_many" else []
    assert values(records) == kept
    assert 1 <= len(faults(records)) <= 2


@pytest.mark.parametrize("indent", [0, 1, 4])
@pytest.mark.parametrize("at", [0, 10, 99])
@pytest.mark.parametrize("breakage", ["no_quotes", "quote_missing", "brackets_missing"])
def test_a_broken_row_of_an_indented_document_costs_no_row_behind_it(breakage: str, at: int, indent: int) -> None:
    rows = [json.loads(row) for row in _ROWS]
    text = json.dumps(rows, indent=indent)
    question = f'"say the word {at}"'
    if breakage == "brackets_missing":
        last = f'"the word {at}"'
        begin = text.index(last) + len(last)
        end = text.index("{", begin) if at < 99 else text.rindex("]")
        text = text[:begin] + ",\n" + " " * indent + text[end:]
    else:
        text = text.replace(question, question.strip('"') if breakage == "no_quotes" else question[:-1])
    records = read_records("json", text)
    assert values(records) == rows[:at] + rows[at + 1 :]
    assert len(faults(records)) == 1


@pytest.mark.parametrize(
    ("behind", "kept", "expected"),
    [
        (f"\n[{_ROWS[3]},\n{_ROWS[4]}]", 5, []),
        (f"\n{_ROWS[3]}\n{_ROWS[4]}", 5, []),
        (" garbage", 3, [(1, "invalid_json")]),
        (f"\ngarbage\n[{_ROWS[3]}]", 4, [(2, "invalid_json")]),
        (f"]\n{_ROWS[3]}", 4, [(1, "invalid_json")]),
        ("}", 3, [(1, "invalid_json")]),
        (f",\n{_ROWS[3]}\n]", 4, [(3, "invalid_json")]),
        (f"\n[{_ROWS[3]},", 4, [(2, "invalid_json")]),
    ],
)
def test_what_stands_behind_an_array_is_read_or_a_fault(
    behind: str, kept: int, expected: list[tuple[int, str]]
) -> None:
    records = read_records("json", "[" + ",".join(_ROWS[:3]) + "]" + behind)
    assert values(records) == [json.loads(row) for row in _ROWS[:kept]]
    assert faults(records) == expected


@pytest.mark.parametrize("name", ["brackets_missing", "quote_missing", "brace_missing", "no_quotes"])
@pytest.mark.parametrize("style", ["rows_on_lines", "one_line"])
def test_a_document_of_broken_rows_does_not_cost_their_square(name: str, style: str) -> None:
    opening, between, closing = _STYLES[style]
    text = opening + between.join([_BROKEN[name]] * 20_000) + closing
    started = time.process_time()
    records = read_records("json", text)
    # Five seconds with coverage on two busy cores; their square takes minutes.
    assert time.process_time() - started < 20
    assert 20_000 <= len(faults(records)) <= 20_001


def test_an_array_without_an_end_is_shown_from_where_a_row_begins() -> None:
    # What is cut off at its beginning may begin with half a key, which nobody finds.
    last = good(1).replace("say", "say " + "x" * 30_000)
    for text, begin in ((f"[{good(0)}, {last}", last), ("[", "["), (f"[{good(0)},\n", good(0))):
        (record,) = (record for record in read_records("json", text) if record.fault)
        assert record.text == begin[:20_000]
