"""How a file's rows are taken: its format, the recipe's mapping of columns, groups, tags."""

from __future__ import annotations

import gzip
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from ft_pipeline.datasets.conversation import RowFault
from ft_pipeline.datasets.formats import FORMATS
from ft_pipeline.datasets.formats.detect import Layout, choose_layout
from ft_pipeline.errors import SourceError
from ft_pipeline.recipe import DatasetSection
from ft_pipeline_tests.datasets.data_folder import DataFolder, good

GSM8K = {"prompt": "question", "completion": "answer"}


def test_columns_are_mapped_and_detection_says_what_it_saw() -> None:
    rows = [{"question": "2+2?", "answer": "4"}] * 3
    layout = choose_layout("gsm8k.jsonl", rows, "auto", GSM8K)
    assert (layout.format, layout.seen) == ("prompt_completion", '"question" and "answer" in 3 of the first 3 rows')
    assert layout.parse(rows[0])[0].messages == [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4"},
    ]


def test_columns_that_no_format_has_are_listed_with_the_way_to_map_them() -> None:
    with pytest.raises(SourceError, match=r"whose columns are: answer, question.*dataset\.columns: \{prompt: question"):
        choose_layout("gsm8k.jsonl", [{"question": "2+2?", "answer": "4"}], "auto", {})


def test_a_row_of_another_format_than_its_file_says_so() -> None:
    with pytest.raises(RowFault, match="the file is chat_messages, and this row looks like alpaca") as caught:
        Layout("chat_messages", {}).parse({"instruction": "a", "output": "b"})
    assert caught.value.code == "mixed_formats"


@pytest.mark.parametrize("wanted", ["auto", "prompt_completion"])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"group": "gpr"}, r"a\.jsonl: .*first 2 rows have: none has 'gpr' \(as group\); did you mean 'grp'\?"),
        (GSM8K, r"none has 'question' \(as prompt\); there are: prompt, completion, grp\. none has 'answer'"),
    ],
)
def test_a_mapped_column_that_no_row_has_is_an_error(columns: dict[str, str], message: str, wanted: str) -> None:
    rows = [{"prompt": "2+2?", "completion": "4"}, {"prompt": "3+3?", "completion": "6", "grp": "a"}]
    with pytest.raises(SourceError, match=message):
        choose_layout("a.jsonl", rows, wanted, columns)


def test_a_row_without_its_mapped_column_is_not_read_from_another() -> None:
    with pytest.raises(RowFault, match='a row of prompt_completion must have "question"'):
        Layout("prompt_completion", GSM8K).parse({"prompt": "a note", "answer": "4"})


def test_a_mapping_may_swap_columns() -> None:
    layout = choose_layout(
        "a.csv", [{"prompt": "4", "completion": "2+2"}], "auto", {"prompt": "completion", "completion": "prompt"}
    )
    assert layout.parse({"prompt": "4", "completion": "2+2"})[0].messages[0] == {"role": "user", "content": "2+2"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"promt": "question"}, "no format has a column 'promt'; did you mean 'prompt'"),
        (
            {"question": "prompt"},
            r"no format has a column 'question'; the format's name comes first: \{prompt: question\}",
        ),
        ({"xyz": "a"}, "no format has a column 'xyz'; there are: messages, system, tools, .*group"),
    ],
)
def test_a_recipe_cannot_map_to_a_column_that_no_format_has(columns: dict[str, str], message: str) -> None:
    for section in ({"columns": columns}, {"sources": [{"path": "data/a.jsonl", "columns": columns}]}):
        with pytest.raises(ValueError, match=message):
            DatasetSection.model_validate({"sources": ["data/a.jsonl"]} | section)


def test_a_recipe_may_map_to_every_column_of_every_format() -> None:
    of_formats = {column for kind in FORMATS.values() for column in (*kind.columns, *kind.optional)}
    known = of_formats | {"group", "tags", "tag"}
    section = DatasetSection(sources=("data/a.jsonl",), columns=dict.fromkeys(known, "x"))
    assert set(section.columns) == known


@pytest.mark.parametrize(
    ("value", "group"),
    [
        (None, None),
        ("", None),
        ("  ", None),
        (float("nan"), None),
        (Decimal("NaN"), None),
        ("a", "a"),
        (1, "1"),
        (1.0, "1"),
        (Decimal("1.00"), "1"),
        (-0.0, "0"),
        (1.5, "1.5"),
        (float("inf"), "inf"),
    ],
)
def test_a_group_is_text_or_a_number_and_nothing_is_none(value: Any, group: str | None) -> None:
    assert Layout("text", {}).parse({"text": "a", "group": value})[1] == group


@pytest.mark.parametrize("value", [True, False, [], [1], {"a": 1}, b"a"])
def test_a_group_of_another_kind_is_a_fault(value: Any) -> None:
    with pytest.raises(RowFault, match='"group" must be text or a number') as caught:
        Layout("text", {}).parse({"text": "a", "group": value})
    assert caught.value.code == "wrong_shape"


@pytest.mark.parametrize(
    ("fields", "tags"),
    [
        ({}, ()),
        ({"tags": None}, ()),
        ({"tags": []}, ()),
        ({"tags": ["", "  ", None, float("nan")]}, ()),
        ({"tag": ""}, ()),
        ({"tags": ["billing", " refund\n", "billing"]}, ("billing", "refund")),
        ({"tags": "billing"}, ("billing",)),
        ({"tag": "billing, refund"}, ("billing, refund",)),
        ({"tag": ["a", "b"]}, ("a", "b")),
        ({"tags": [1, 2.0, Decimal("3.00"), date(2026, 1, 2)]}, ("1", "2", "3", "2026-01-02")),
        ({"tags": [], "tag": "not read"}, ()),
        ({"tags": ["\u200f", "👩\u200d💻"]}, ("\u200f", "👩\u200d💻")),
        ({"tags": [str(number) for number in range(8)] * 2}, tuple("01234567")),
        ({"tag": "x" * 64}, ("x" * 64,)),
    ],
)
def test_tags_are_a_list_or_one_and_nothing_is_none(fields: dict[str, Any], tags: tuple[str, ...]) -> None:
    assert Layout("text", {}).parse({"text": "a"} | fields)[2] == tags


@pytest.mark.parametrize(
    ("fields", "tags"),
    [
        ({"tags": {"a": 1}}, ()),
        ({"tag": True}, ()),
        ({"tags": ["a", ["b"], False]}, ("a",)),
        ({"tags": [str(number) for number in range(9)]}, tuple("01234567")),
        ({"tags": ["x" * 65, "a"]}, ("a",)),
        ({"tags": ["a\x1b[31m", "a\nb", "a\u2028b", "a\ud800"]}, ()),
    ],
)
def test_what_cannot_be_a_tag_is_left_out_and_the_row_stays(fields: dict[str, Any], tags: tuple[str, ...]) -> None:
    assert Layout("text", {}).parse({"text": "a"} | fields)[2] == tags


def test_tags_may_have_another_name() -> None:
    rows = [{"text": "a", "category": "billing", "tags": ["not", "meant"]}, {"text": "b", "tags": ["not meant"]}]
    layout = choose_layout("a.jsonl", rows, "auto", {"tags": "category"})
    assert [layout.parse(row)[2] for row in rows] == [("billing",), ()]


@pytest.mark.parametrize(
    ("rows", "hint"),
    [
        ([{"prompt;completion": "a;b"}], "semicolons between them: write the file with commas"),
        ([{"prompt\tcompletion": "a\tb"}], "tabs between them"),
        ([["a", "b"]], "A row must be an object whose fields have names, and these are lists"),
        (["a"], "these are texts"),
        ([None], "these are null"),
        ([{"prompt": "a", "chosen": "b", "rejected": "c"}], "preference data is not supported"),
        ([{"version": 1, "data": [{"prompt": "a", "completion": "b"}]}], 'lie in the list "data" of one object'),
        ([{"conversation": [{"from": "human", "value": "a"}]}], r"dataset\.columns: \{messages: conversation\}"),
        ([{"dialogue": [{"role": "user", "content": "a"}]}] * 2, r"dataset\.columns: \{messages: dialogue\}"),
        ([{"a": [{"b": 1}]}] * 2, "Map yours in the recipe"),
        ([{"a": []}, {}], "Map yours in the recipe"),
        ([{}], "Map yours in the recipe"),
    ],
)
def test_where_no_format_fits_the_likely_cause_is_named(rows: list[Any], hint: str) -> None:
    with pytest.raises(SourceError, match=rf"a\.json: no format fits its first {len(rows)} rows.*{hint}"):
        choose_layout("a.json", rows, "auto", {})


def test_an_archive_that_gets_its_right_name_is_read(tmp_path: Any) -> None:
    folder = DataFolder(tmp_path)
    folder.write("b.jsonl", [good(0)])
    path = folder.write("a.jsonl", gzip.compress("\n".join(good(number) for number in range(1, 4)).encode()))
    assert folder.parse("misnamed").figures["unreadable_rows"] != 0
    path.rename(path.with_name("a.jsonl.gz"))
    figures = folder.parse("named", earlier=["misnamed"]).figures
    assert (figures["rows"], figures["unreadable_rows"]) == (4, 0)
