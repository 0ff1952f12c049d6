from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ft_pipeline.datasets import parallel, parse
from ft_pipeline.errors import DatasetError, SourceError
from ft_pipeline_tests.datasets.data_folder import DataFolder, good, turns


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path)


def _first_messages(frame: pl.DataFrame) -> list[Any]:
    return [messages[0]["content"] for messages in frame["messages"]]


def test_every_kind_of_file_gives_the_same_rows(folder: DataFolder) -> None:
    rows = [{"prompt": f"p{i}", "completion": f"c{i}"} for i in range(3)]
    folder.write("a.jsonl", [json.dumps(row) for row in rows])
    folder.write("b.json", json.dumps(rows, indent=1))
    folder.write("c.csv", "prompt,completion\r\n" + "".join(f"p{i},c{i}\r\n" for i in range(3)))
    pl.DataFrame(rows).write_parquet(folder.root / "data/d.parquet")
    folder.write("e.jsonl.gz", gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))
    folder.parse()
    index, frame = folder.raw()
    assert sorted(source.file for source in index.sources) == [
        *("data/a.jsonl", "data/b.json", "data/c.csv", "data/d.parquet", "data/e.jsonl.gz"),
    ]
    assert frame["reason"].null_count() == frame.height == 15
    assert sorted(_first_messages(frame)) == sorted(["p0", "p1", "p2"] * 5)


def test_every_kind_of_file_gives_the_same_tags(folder: DataFolder) -> None:
    rows: list[dict[str, Any]] = [{"text": "a", "kind": "x"}, {"text": "b", "kind": None}, {"text": "c", "kind": "z"}]
    folder.write("a.jsonl", [json.dumps(row) for row in rows])
    folder.write("b.json", json.dumps(rows))
    folder.write("c.csv", "text,kind\na,x\nb,\nc,z\n")
    pl.DataFrame(rows).write_parquet(folder.root / "data/d.parquet")
    listed = pl.DataFrame([row | {"kind": row["kind"] and [row["kind"]]} for row in rows])
    listed.write_parquet(folder.root / "data/e.parquet")
    folder.parse(columns={"tags": "kind"})
    assert folder.raw()[1]["tags"].to_list() == [["x"], None, ["z"]] * 5


def test_lines_are_those_of_the_file(folder: DataFolder) -> None:
    folder.write("a.jsonl", ["", good(1), "", "broken", good(2)])
    folder.parse()
    _, frame = folder.raw()
    assert frame["line"].to_list() == [2, 4, 5]
    assert frame["reason"].to_list() == [None, "invalid_json", None]
    assert frame["text"].to_list() == [None, "broken", None]


def test_lines_of_a_json_document_are_those_of_its_rows(folder: DataFolder) -> None:
    folder.write("a.json", '[\n{"text": "one"},\n\n{"text": "two", },\n{"text":\n "three"}\n]\n')
    folder.parse()
    _, frame = folder.raw()
    assert frame["line"].to_list() == [2, 4, 5]
    assert frame["reason"].to_list() == [None, "invalid_json", None]


def test_a_row_of_csv_with_wrong_quotes_costs_no_other_row(folder: DataFolder) -> None:
    folder.write("a.csv", 'prompt,completion\np1,c1\n"p2,c2\np3,"c\n3"\np4,c4\n')
    folder.parse()
    _, frame = folder.raw()
    readable = frame.filter(pl.col("reason").is_null())
    assert _first_messages(readable) == ["p1", "p3", "p4"]
    assert frame.filter(pl.col("reason") == "invalid_csv")["line"].to_list() == [3]


def test_a_line_of_more_than_16_mib_is_a_fault_and_the_next_one_is_read(folder: DataFolder) -> None:
    folder.write("a.jsonl", good(1) + "\n" + "x" * (40 << 20) + "\n" + good(2) + "\n")
    folder.parse()
    _, frame = folder.raw()
    assert frame["line"].to_list() == [1, 2, 3]
    assert frame["reason"].to_list() == [None, "line_too_long", None]
    assert len(frame["text"][1]) <= 20_000


def test_the_summary_says_which_format_was_seen_and_why(folder: DataFolder) -> None:
    folder.write("a.jsonl", [good(i) for i in range(3)])
    (row,) = folder.parse().tables["sources"]
    assert (row["format"], row["seen"]) == ("chat_messages", '"messages" in 3 of the first 3 rows')


def test_files_that_no_format_fits_are_all_named(folder: DataFolder) -> None:
    folder.write("a.jsonl", ['{"x": 1}'])
    folder.write("b.jsonl", ['{"y": 1}'])
    with pytest.raises(SourceError, match=r"(?s)data/[ab]\.jsonl: no format fits.*data/[ab]\.jsonl: no format fits"):
        folder.parse()


def test_a_file_of_broken_rows_only_loses_none_of_them(folder: DataFolder) -> None:
    folder.write("a.jsonl", ["broken"] * 3)
    folder.write("b.jsonl", [good(1)])
    folder.parse()
    index, frame = folder.raw()
    assert {source.file: source.format for source in index.sources} == {
        "data/a.jsonl": "unknown",
        "data/b.jsonl": "chat_messages",
    }
    assert frame["reason"].to_list().count("invalid_json") == 3


def test_sources_without_a_row_are_an_error(folder: DataFolder) -> None:
    folder.write("a.jsonl", "\n\n")
    with pytest.raises(DatasetError, match=r"the sources are empty: data/a\.jsonl"):
        folder.parse()


def test_a_source_can_have_a_format_of_its_own(folder: DataFolder) -> None:
    folder.write("a.jsonl", ['{"q": "p", "a": "c", "text": "t"}'])
    source = {"path": "data/a.jsonl", "format": "prompt_completion", "columns": {"prompt": "q", "completion": "a"}}
    folder.parse("one", sources=[source])
    folder.parse("two", sources=["data/a.jsonl"])
    assert [turn["role"] for turn in folder.raw("one")[1]["messages"][0]] == ["user", "assistant"]
    assert [turn["role"] for turn in folder.raw("two")[1]["messages"][0]] == ["text"]


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_new_files_are_parsed_again_and_the_bytes_are_those_from_scratch(
    folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("a.jsonl", [good(i) for i in range(5)])
    folder.parse("first")
    folder.write("b.jsonl", [good(i) for i in range(5, 9)] + ["broken"])
    folder.parse("scratch")
    parsed: list[str] = []
    cut_file = parse._cut_file

    def note(reading: Any) -> Any:
        parsed.append(reading.source.name)
        return cut_file(reading)

    monkeypatch.setattr(parse, "_cut_file", note)
    folder.parse("grown", earlier=["first"])
    assert parsed == ["data/b.jsonl"]
    assert _bytes(folder.root / "grown") == _bytes(folder.root / "scratch")


def test_a_file_that_changes_while_it_is_read_is_an_error(folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder.write("a.jsonl", [good(i) for i in range(5)])
    batches = parse.parse_batch

    def edit(piece: Any) -> Any:
        path.write_text(good(7))
        return batches(piece)

    monkeypatch.setattr(parse, "parse_batch", edit)
    with pytest.raises(SourceError, match=r"data/a\.jsonl: changed while it was read"):
        folder.parse()


def test_a_damaged_part_of_an_earlier_data_set_is_not_taken_over(folder: DataFolder) -> None:
    folder.write("a.jsonl", [good(i) for i in range(5)])
    folder.parse("first")
    good_bytes = _bytes(folder.root / "first")
    (chunk,) = (folder.root / "first").glob("parts/*/*.parquet")
    chunk.write_bytes(b"PAR1" + bytes(100))
    folder.parse("second", earlier=["first"])
    assert _bytes(folder.root / "second") == good_bytes


def test_several_processes_give_the_same_bytes_as_one(folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [turns(("user", f"{i} " + "word " * 400), ("assistant", "x")) for i in range(6000)]
    folder.write("a.jsonl", rows)
    folder.parse("one")
    monkeypatch.setattr(parallel, "_WORTH_BYTES", 1)
    folder.parse("two")
    assert len(list((folder.root / "two").glob("parts/*/*.parquet"))) > 1
    assert _bytes(folder.root / "one") == _bytes(folder.root / "two")
