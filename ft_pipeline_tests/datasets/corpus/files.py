"""Whole files that are wrong: text files, CSV, archives, Parquet."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline_tests.datasets.corpus import GOOD_ROWS, FileCase
from ft_pipeline_tests.datasets.data_folder import good

_GOOD = [good(number) for number in range(GOOD_ROWS)]
_MORE = [good(number) for number in range(GOOD_ROWS, 2 * GOOD_ROWS)]
_LINES = "\n".join(_GOOD) + "\n"
_PAIRS = [f"prompt {number},answer {number}" for number in range(GOOD_ROWS)]
_MORE_PAIRS = [f"prompt {number},answer {number}" for number in range(GOOD_ROWS, 2 * GOOD_ROWS)]
_BETWEEN = GOOD_ROWS + 1  # the line of what stands between the good ones
_UTF_16 = "text must be UTF-8, and this is UTF-16"


def _text(name: str, file: str, text: str | bytes, kept: int = 0, error: str = "", **faults: str) -> FileCase:
    found = {int(line.removeprefix("line_")): code for line, code in faults.items()}
    return FileCase(name, file, text.encode() if isinstance(text, str) else text, kept, found, error)


def _document(name: str, between: str, **faults: str) -> FileCase:
    """An array with a row a line, the good ones around others; the bracket has the first line."""
    text = "[\n" + ",\n".join([*_GOOD, between, *_MORE]) + "\n]"
    return FileCase(
        name, "a.json", text.encode(), 2 * GOOD_ROWS, dict.fromkeys([_BETWEEN + 1], "".join(faults.values()))
    )


def _table(name: str, *between: str, **faults: str) -> FileCase:
    """A CSV file; the header has the first line."""
    text = "\n".join(["prompt,completion", *_PAIRS, *between, *_MORE_PAIRS]) + "\n"
    found = {_BETWEEN + 1 + int(line.removeprefix("line_")): code for line, code in faults.items()}
    return FileCase(name, "a.csv", text.encode(), 2 * GOOD_ROWS + (not faults and between != ("",)), found)


def _parquet(columns: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def _typed(name: str, values: Any, kept: int = 0, code: str = "wrong_shape") -> FileCase:
    """A Parquet file of one column of messages; all rows but those kept have a code."""
    faults = dict.fromkeys(range(kept + 1, len(values) + 1), code)
    return FileCase(name, "a.parquet", _parquet({"messages": values}), kept, faults)


def _zst(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


_ARRAY = "[" + ",".join(_GOOD) + "]"
_MESSAGES = [json.loads(line)["messages"] for line in _GOOD]
_WHOLE_PARQUET = _parquet({"messages": _MESSAGES})

# Files in which nothing can be read: all of their rows go to quarantine, beside whatever other files there are.
UNREADABLE_CASES = [
    _text("csv_in_jsonl", "a.jsonl", "\n".join(_PAIRS)),
    _text("only_broken", "a.jsonl", "broken\n" * GOOD_ROWS),
    _text("bomb_json", "a.json", "[" * 100_000),
]
TEXT_CASES = [
    *(_text(f"empty_{suffix}", f"a.{suffix}", "", error="empty") for suffix in ("jsonl", "json", "csv", "ndjson")),
    *(_text(f"blank_{suffix}", f"a.{suffix}", "\n \r\n\t\n", error="empty") for suffix in ("jsonl", "json")),
    *(
        _text(f"utf_16_{order}_{suffix}", f"a.{suffix}", mark + _LINES.encode(f"utf-16-{order}"), error=_UTF_16)
        for suffix in ("jsonl", "json", "csv")
        for order, mark in (("le", b"\xff\xfe"), ("be", b"\xfe\xff"))
    ),
    *(
        _text(f"utf_16_without_mark_{order}_{suffix}", f"a.{suffix}", _LINES.encode(f"utf-16-{order}"), error="UTF-16")
        for suffix in ("jsonl", "json", "csv")
        for order in ("le", "be")
    ),
    _text("only_carriage_returns", "a.jsonl", _LINES.replace("\n", "\r"), error="carriage returns"),
    _text("indented_in_jsonl", "a.jsonl", json.dumps(json.loads(good(1)), indent=2), error="Name it .json"),
    _text("document_in_jsonl", "a.jsonl", "[\n" + ",\n".join(_GOOD) + "\n]", error="Name it .json"),
    _text("one_line_array_in_jsonl", "a.jsonl", "[" + ",".join(_GOOD) + "]", error="Name it .json"),
    _text("mark_jsonl", "a.jsonl", "\ufeff" + _LINES, GOOD_ROWS),
    _text("mark_json", "a.json", "\ufeff" + _ARRAY, GOOD_ROWS),
    _text("mark_csv", "a.csv", "\ufeffprompt,completion\n" + "\n".join(_PAIRS), GOOD_ROWS),
    _text("crlf_jsonl", "a.jsonl", _LINES.replace("\n", "\r\n"), GOOD_ROWS),
    _text("crlf_csv", "a.csv", "prompt,completion\r\n" + "\r\n".join(_PAIRS), GOOD_ROWS),
    _text("no_last_break", "a.jsonl", _LINES.rstrip("\n"), GOOD_ROWS),
    _text("cut_last_row", "a.jsonl", _LINES[:-9], GOOD_ROWS - 1, line_60="invalid_json"),
    _text("cut_by_nul", "a.jsonl", _LINES + "\0" * 4096, GOOD_ROWS, line_61="invalid_json"),
    _text(
        "break_in_text",
        "a.jsonl",
        _LINES + '{"a": "b\nc"}\n',
        GOOD_ROWS,
        line_61="invalid_json",
        line_62="invalid_json",
    ),
    _text(
        "array_in_jsonl", "a.jsonl", "[\n" + _LINES + "]\n", GOOD_ROWS, line_1="invalid_json", line_62="invalid_json"
    ),
    _text("only_scalars", "a.jsonl", "1\n" * GOOD_ROWS, error="no format fits"),
    _text("array_json", "a.json", _ARRAY, GOOD_ROWS),
    _text("cut_array", "a.json", "[" + ",\n".join(_GOOD), GOOD_ROWS, line_60="invalid_json"),
    _text("cut_in_row", "a.json", "[" + ",\n".join(_GOOD)[:-9], GOOD_ROWS - 1, line_60="invalid_json"),
    _text("comma_at_end", "a.json", _ARRAY.replace("]}]", "]},]"), GOOD_ROWS),
    _text("objects_json", "a.json", "\n".join(_GOOD), GOOD_ROWS),
    _text("concatenated_json", "a.json", "".join(_GOOD), GOOD_ROWS),
    _text("scalar_json", "a.json", "1", error="array of rows"),
    _text("text_json", "a.json", '"a"', error="array of rows"),
    _text("null_json", "a.json", "null", error="array of rows"),
    _text("empty_array", "a.json", "[]", error="empty"),
    _text("list_inside", "a.json", json.dumps({"data": [json.loads(line) for line in _GOOD]}), error="no format fits"),
    _text("latin_1_json", "a.json", b'[{"text": "\xe9"}]', error="byte 11"),
    _document("document_comma", '{"a": 1,}', line="invalid_json"),
    _document("document_number", "1", line="wrong_shape"),
    _document("document_null", "null", line="wrong_shape"),
    _document("document_word", "{broken}", line="invalid_json"),
    _document("document_key_twice", '{"a": 1, "a": 2}', line="duplicate_key"),
    _document("document_not_finite", '{"a": NaN}', line="not_finite"),
    _document("document_surrogate", r'{"a": "\ud800"}', line="invalid_unicode"),
    _document("document_deep", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", line="too_deep"),
    _document("document_raw_nul", '{"a": "\0"}', line="invalid_json"),
    _document("document_array", "[1, 2]", line="wrong_shape"),
]
TABLE_CASES = [
    _table("unclosed_quote", '"never closed,b', line_0="invalid_csv"),
    _table("quote_in_the_middle", 'a "word" here,b'),
    _table("text_after_quote", '"a"b,c', line_0="invalid_csv"),
    _table("quote_after_blank", 'a, "b"'),
    _table("escaped_by_backslash", r'"a \"b\" c",d', line_0="invalid_csv"),
    _table("doubled_quotes", '"a ""b"" c",d'),
    _table("break_in_quotes", '"a', 'b",c'),
    _table("too_few", "a", line_0="wrong_shape"),
    _table("too_many", "a,b,c", line_0="wrong_shape"),
    _table("other_separator", "a;b", line_0="wrong_shape"),
    _table("tab_separated", "a\tb", line_0="wrong_shape"),
    _table("blank_line", ""),
    _table("commas_only", ",", line_0="empty_turn"),
    _table("nul", "a\0,b", line_0="control_character"),
    _table("two_unclosed", '"a,b', 'c,"d', line_0="invalid_csv", line_1="invalid_csv"),
    _text(
        "latin_1_csv",
        "a.csv",
        "\n".join(["prompt,completion", *_PAIRS, "\xe9,b"]).encode("latin-1"),
        60,
        line_62="invalid_utf8",
    ),
    _text("carriage_returns_csv", "a.csv", "prompt,completion\r" + "\r".join(_PAIRS), error="carriage returns"),
    _text("header_twice", "a.csv", "prompt,prompt\na,b\n", error="twice: 'prompt'"),
    _text("header_unclosed", "a.csv", '"prompt,completion\na,b\n', error="header"),
    _text("header_alone", "a.csv", "prompt,completion\n", error="empty"),
    _text("no_header", "a.csv", "\n".join(_PAIRS), error="no format fits"),
]
ARCHIVE_CASES = [
    _text("gz_fine", "a.jsonl.gz", gzip.compress(_LINES.encode()), GOOD_ROWS),
    _text("gz_two_members", "a.jsonl.gz", gzip.compress(_LINES.encode()) * 2, 2 * GOOD_ROWS),
    *(
        _text(f"gz_cut_{n}", "a.jsonl.gz", gzip.compress(_LINES.encode())[:-n], error="truncated")
        for n in (1, 8, 60, 200)
    ),
    _text("gz_flipped", "a.jsonl.gz", gzip.compress(_LINES.encode())[:-6] + b"\0" * 6, error="truncated or no gz"),
    _text("gz_garbage_behind", "a.jsonl.gz", gzip.compress(_LINES.encode()) + b"garbage", error="truncated or no gz"),
    _text("gz_is_text", "a.jsonl.gz", _LINES, error="truncated or no gz"),
    _text("gz_empty", "a.jsonl.gz", "", error="is empty"),
    _text("gz_bomb", "a.jsonl.gz", gzip.compress(bytes(8 << 20)), error="bytes become more than"),
    _text("zst_fine", "a.jsonl.zst", _zst(_LINES.encode()), GOOD_ROWS),
    *(_text(f"zst_cut_{n}", "a.jsonl.zst", _zst(_LINES.encode())[:-n], error="truncated") for n in (1, 40, 200)),
    _text("zst_is_text", "a.jsonl.zst", _LINES, error="truncated or no zst"),
    _text("zst_bomb", "a.jsonl.zst", _zst(bytes(8 << 20)), error="bytes become more than"),
    _text("json_bomb_in_gz", "a.json.gz", gzip.compress(bytes(8 << 20)), error="bytes become more than"),
    _text("csv_cut_gz", "a.csv.gz", gzip.compress("\n".join(_PAIRS).encode())[:-20], error="truncated"),
]
PARQUET_CASES = [
    _text("parquet_fine", "a.parquet", _WHOLE_PARQUET, GOOD_ROWS),
    _text("parquet_in_gz", "a.parquet.gz", gzip.compress(_WHOLE_PARQUET), GOOD_ROWS),
    *(_text(f"parquet_cut_{n}", "a.parquet", _WHOLE_PARQUET[:-n], error="no whole Parquet") for n in (1, 4, 8, 300)),
    _text("parquet_is_text", "a.parquet", _LINES, error="no whole Parquet"),
    _text("parquet_empty", "a.parquet", "", error="no whole Parquet"),
    _text("parquet_magic_alone", "a.parquet", "PAR1", error="no whole Parquet"),
    _text("parquet_zeros", "a.parquet", b"PAR1" + bytes(200) + b"PAR1", error="no whole Parquet"),
    _text("parquet_page_lost", "a.parquet", b"PAR1" + bytes(400) + _WHOLE_PARQUET[404:], error="no whole Parquet"),
    _text("parquet_no_rows", "a.parquet", _parquet({"messages": pa.array([], pa.string())}), error="empty"),
    _text("parquet_other_columns", "a.parquet", _parquet({"x": [1, 2]}), error="no format fits"),
    _text("parquet_no_columns", "a.parquet", _parquet({}), error="empty"),
    _typed("parquet_null", [*_MESSAGES, None], GOOD_ROWS),
    _typed("parquet_null_turn", [*_MESSAGES, [None]], GOOD_ROWS),
    _typed("parquet_null_content", [*_MESSAGES, [{"role": "user", "content": None}]], GOOD_ROWS),
]
_TEXTS = [f"text {number}" for number in range(GOOD_ROWS)]
PARQUET_TYPE_CASES = [
    FileCase(f"parquet_{name}", "a.parquet", _parquet({"text": values}), error="")
    for name, values in {
        "ints": list(range(GOOD_ROWS)),
        "bytes": [b"\xff\xfe"] * GOOD_ROWS,
        "floats": [float("nan")] * GOOD_ROWS,
        "nested": [[["a"]]] * GOOD_ROWS,
        "nulls": pa.nulls(GOOD_ROWS),
        "times": pa.array([0] * GOOD_ROWS, pa.timestamp("ns")),
        "late_times": pa.array([2**62] * GOOD_ROWS, pa.timestamp("us")),
        "dates": pa.array([2**30] * GOOD_ROWS, pa.date32()),
        "decimals": pa.array([1] * GOOD_ROWS, pa.decimal128(38, 2)),
        "durations": pa.array([2**62] * GOOD_ROWS, pa.duration("us")),
        "maps": pa.array([[("a", 1)]] * GOOD_ROWS, pa.map_(pa.string(), pa.int64())),
    }.items()
]
