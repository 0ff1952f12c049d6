"""Readers on their own: what of a file is read, what is a fault, and how much is in memory at once."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.datasets.readers.batch import BATCH_BYTES, MAX_ROW_BYTES
from ft_pipeline.errors import SourceError
from ft_pipeline_tests.datasets.data_folder import good, turns
from ft_pipeline_tests.datasets.records import faults, read_batches, read_records, values

_MIB = 1 << 20
_ROWS = [good(number) for number in range(100)]


def test_a_row_above_the_limit_is_a_fault_in_each_kind_of_file() -> None:
    long = "x" * (MAX_ROW_BYTES + 1)
    rows = [{"prompt": "a", "completion": text} for text in ("b", long, "c")]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    table = "prompt,completion\n" + "".join(f"a,{row['completion']}\n" for row in rows)
    for kind, content, line in (
        ("json", json.dumps(rows, indent=0), 6),
        ("jsonl", "\n".join(map(json.dumps, rows)), 2),
        ("csv", table, 3),
        ("parquet", file.getvalue(), 2),
    ):
        records = read_records(kind, content)
        assert values(records) == [rows[0], rows[2]], kind
        assert faults(records) == [(line, "line_too_long")], kind


def _count_lines(rows: int) -> list[str]:
    filler = "x" * 60_000
    return [f"q{number},{filler}{number}" for number in range(rows)]


def test_a_quote_of_csv_that_is_never_closed_costs_no_row_and_no_line_number() -> None:
    rows = _count_lines(400)  # more than a row may have
    records = read_records("csv", "\n".join(["prompt,completion", '"open,a', *rows]) + "\n")
    assert faults(records) == [(2, "invalid_csv")]
    assert [(record.line, record.value["prompt"]) for record in records[1:]] == [(n + 3, f"q{n}") for n in range(400)]


def test_a_long_line_of_csv_behind_an_open_quote_is_a_fault_of_its_own() -> None:
    records = read_records("csv", 'prompt,completion\n"open,a\nq,' + "y" * (20 * _MIB) + "\nq2,a2\n")
    assert faults(records) == [(2, "invalid_csv"), (3, "line_too_long")]
    assert "got 20971523" in str(records[1].fault)
    assert [(record.line, record.value) for record in records[2:]] == [(4, {"prompt": "q2", "completion": "a2"})]


@pytest.mark.parametrize(
    ("line", "column"),
    [('"open,b', 1), ('a,"open', 3), ('é,"a"b', 4), ('"a ""b"" c","d"e', 13), ("a,b\rc", 3)],
)
def test_a_fault_of_csv_has_the_column_of_its_field(line: str, column: int) -> None:
    (record,) = read_records("csv", f"prompt,completion\n{line}\n")
    assert record.fault
    assert (record.fault.code, record.fault.column) == ("invalid_csv", column)


def test_text_of_csv_that_is_no_utf_8_has_the_name_of_its_column() -> None:
    (record,) = read_records("csv", b"prompt,completion\na,caf\xe9\n")
    assert str(record.fault) == "not UTF-8: the field 'completion'"


@pytest.mark.parametrize("kind", ["csv", "parquet", "json"])
def test_batches_of_wide_rows_are_of_few_rows(kind: str) -> None:
    rows = [{"prompt": f"q{number}", "completion": f"{number} " + "x" * _MIB} for number in range(30)]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    table = "prompt,completion\n" + "".join(f"{row['prompt']},{row['completion']}\n" for row in rows)
    contents: dict[str, str | bytes] = {"csv": table, "json": json.dumps(rows), "parquet": file.getvalue()}
    batches = read_batches(kind, contents[kind])
    sizes = [sum(len(record.value["completion"]) for record in batch.records) for batch in batches]
    assert max(sizes) <= BATCH_BYTES + 2 * _MIB
    assert [record.value for batch in batches for record in batch.records] == rows


def _parquet(columns: dict[str, Any], **settings: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **settings)
    return file.getvalue()


def test_batches_of_one_wide_text_that_parquet_writes_once_are_of_few_rows() -> None:
    batches = read_batches("parquet", _parquet({"text": ["x" * 100_000] * 2000}))
    assert max(len(batch.records) for batch in batches) <= BATCH_BYTES // 100_000 + 1
    assert sum(len(batch.records) for batch in batches) == 2000


def test_rows_of_many_row_groups_have_their_positions() -> None:
    records = read_records(
        "parquet", _parquet({"text": [f"text {number}" for number in range(5000)]}, row_group_size=700)
    )
    assert [record.line for record in records] == list(range(1, 5001))
    assert records[4321].value == {"text": "text 4321"}


def _not_utf_8(at: int, rows: int) -> pa.Array:
    texts = [b"\xff\xfe" if number == at else b"fine" for number in range(rows)]
    return pa.array(texts, pa.binary()).view(pa.string())


@pytest.mark.parametrize(
    ("column", "code", "detail"),
    [
        (pa.array([2**60 if n == 7 else n for n in range(50)], pa.timestamp("us")), "wrong_shape", r"'x' \(timestamp"),
        (pa.array([2**30 if n == 7 else n for n in range(50)], pa.date32()), "wrong_shape", r"'x' \(date32"),
        (_not_utf_8(7, 50), "invalid_utf8", "not UTF-8: the column 'x'"),
    ],
)
def test_a_value_of_parquet_that_cannot_be_held_costs_its_row_alone(column: pa.Array, code: str, detail: str) -> None:
    records = read_records("parquet", _parquet({"text": [f"text {n}" for n in range(50)], "x": column}))
    assert faults(records) == [(8, code)]
    with pytest.raises(ValueError, match=detail):
        raise records[7].fault or AssertionError
    assert '"text 7"' in records[7].show()
    assert [value["text"] for value in values(records)] == [f"text {n}" for n in range(50) if n != 7]


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (pa.ArrowNotImplementedError("no such encoding"), r"a type that can be read, and one is not: no such encoding"),
        (OSError("page lost"), r"no whole Parquet file: page lost\. Write it again"),
    ],
)
def test_a_column_that_cannot_be_read_is_no_damage(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, error: str
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise failure

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", fail)
    with pytest.raises(SourceError, match=error):
        read_records("parquet", _parquet({"text": ["a"]}))


def test_parquet_with_two_columns_of_one_name_is_an_error() -> None:
    file = io.BytesIO()
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), file)
    with pytest.raises(SourceError, match=r"a\.parquet: the names of columns must differ; twice: 'text'"):
        read_records("parquet", file.getvalue())


@pytest.mark.parametrize(
    ("kind", "content", "error"),
    [
        ("jsonl", "\r".join(_ROWS), r"must end with a line feed .* carriage returns .* alone"),
        ("csv", "prompt,completion\ra,b\r", r"must end with a line feed .* carriage returns .* alone"),
        *(
            (kind, "\n".join(_ROWS).encode(f"utf-16-{order}"), f"without a byte order mark.*iconv -f UTF-16{order} ")
            for kind in ("jsonl", "json", "csv")
            for order in ("LE", "BE")
        ),
        ("jsonl", turns(("user", "数学一二三四" * 40)).replace("\\u", "").encode("utf-16-le"), "byte order mark"),
        (
            "jsonl",
            json.dumps(json.loads(_ROWS[0]), indent=2),
            r"a\.jsonl:1: .* its first row goes on .* Name it \.json",
        ),
        ("jsonl", "\n\n" + json.dumps([json.loads(row) for row in _ROWS], indent=1), r"a\.jsonl:3: .* with an array"),
        ("jsonl", "[" + ",".join(_ROWS) + "]", r"a\.jsonl:1: .* with an array: this is a JSON document\. Name it"),
        ("jsonl", "[" + ",\n".join(_ROWS) + "]", "with an array"),
        ("jsonl", "[\n" + ",\n".join(_ROWS) + "\n]", "with an array"),
    ],
)
def test_a_file_that_is_something_else_is_one_error_that_says_what(kind: str, content: str | bytes, error: str) -> None:
    with pytest.raises(SourceError, match=error):
        read_records(kind, content)


@pytest.mark.parametrize("first", ["[", "{", "[" + _ROWS[0], "[" + _ROWS[0] + "]", "[1, 2]", "\0" * 300])
def test_a_file_of_lines_that_begins_with_a_broken_one_is_read(first: str) -> None:
    records = read_records("jsonl", "\n".join([first, *_ROWS]))
    assert values(records)[-100:] == [json.loads(row) for row in _ROWS]
    assert len(records) == 101


def test_a_row_on_a_line_of_its_own_may_have_carriage_returns_in_it() -> None:
    assert values(read_records("jsonl", '{"text":\r"one"}\r\n{"text": "two"}\r\n')) == [
        {"text": "one"},
        {"text": "two"},
    ]
    assert values(read_records("jsonl", '{"text":\r"one"}\r')) == [{"text": "one"}]


def test_many_blank_lines_at_the_beginning_cost_little() -> None:
    started = time.monotonic()
    assert len(read_records("jsonl", "\n" * (8 * _MIB) + _ROWS[0])) == 1
    assert time.monotonic() - started < 10
