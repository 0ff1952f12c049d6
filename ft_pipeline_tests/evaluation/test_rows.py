"""Which rows of a validated data set are scored, and what is known of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ft_pipeline.datasets.validated import EVALUATION_FILE
from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.rows import read_rows
from ft_pipeline_tests.datasets.data_folder import DataFolder, turns
from ft_pipeline_tests.datasets.validated_folder import Folder, chat, text

_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "set": pl.String,
    "messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
    "source_file": pl.String,
    "source_line": pl.Int64,
}


def _write(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    held_out = [row | {"set": "held_out"} if row["set"] == "train" else row for row in rows]
    return Folder(held_out).write(tmp_path / "valid") / EVALUATION_FILE


def test_tags_of_the_data_are_those_of_the_rows_to_score(tmp_path: Path, tiny_base: Path) -> None:
    folder = DataFolder(tmp_path, tiny_base)
    tags = {f"question {number}": ["odd", "long"] if number % 2 else None for number in range(40)}
    lines = [turns(("user", asked), ("assistant", "a"), kind=found) for asked, found in tags.items()]
    folder.make(lines, tested=[turns(("user", "fresh"), ("assistant", "a"), kind="new")], columns={"tags": "kind"})
    rows = read_rows(folder.root / "valid" / EVALUATION_FILE, 100)
    found = {row.prompt[0]["content"]: row.tags for row in rows}
    assert found.pop("fresh") == ("new",)
    assert found == {asked: tuple(tags[asked] or ()) for asked in found}
    assert set(found.values()) == {("odd", "long"), ()}


def test_rows_of_a_file_without_tags_have_none(tmp_path: Path) -> None:
    row = {name: chat("sky", "blue")[name] for name in _SCHEMA} | {"set": "held_out"}
    pl.DataFrame([row], schema=_SCHEMA).write_parquet(tmp_path / "rows.parquet")
    (found,) = read_rows(tmp_path / "rows.parquet", 5)
    assert (found.tags, found.check, found.reference, found.place) == ((), None, "blue", "data/raw/a.jsonl:1")


def test_plain_text_and_calls_of_tools_are_not_scored(tmp_path: Path) -> None:
    path = _write(tmp_path, chat("sky", "blue"), text("a document"), chat("call", "it", extra='{"tools": [{}]}'))
    assert [row.reference for row in read_rows(path, 5)] == ["blue"]


def test_the_held_out_rows_come_first_and_each_set_has_its_limit(tmp_path: Path) -> None:
    sides = ["fresh", "held_out", "fresh", "held_out", "held_out"]
    path = _write(tmp_path, *(chat(f"q{number}", "a", set=side) for number, side in enumerate(sides)))
    rows = read_rows(path, 2)
    assert [(row.set_name, row.number) for row in rows] == [
        ("held_out", 0),
        ("held_out", 1),
        ("fresh", 0),
        ("fresh", 1),
    ]


def test_a_set_that_none_of_its_rows_is_held_out_of_cannot_be_scored(tmp_path: Path) -> None:
    path = _write(tmp_path, chat("sky", "blue", set="fresh"))
    with pytest.raises(EvaluationError, match=r"at least one held-out row must be.*one: fresh\).*held_out_share"):
        read_rows(path, 5)


def test_a_row_without_a_reference_answer_is_named(tmp_path: Path) -> None:
    row = chat("sky", "blue", source_line=7)
    row["messages"].pop()
    with pytest.raises(EvaluationError, match=r"data/raw/a\.jsonl:7: a row to score must end with .* reference answer"):
        read_rows(_write(tmp_path, row), 5)
