"""JSON documents of chats in which a row is broken or something stands behind, and files whose rows are wide."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline_tests.datasets.corpus import GOOD_ROWS, FileCase
from ft_pipeline_tests.datasets.data_folder import good

_GOOD = [good(number) for number in range(GOOD_ROWS)]
_MORE = [good(number) for number in range(GOOD_ROWS, 2 * GOOD_ROWS)]
_WHOLE = good(999)
_TEXT = "say the word 999"
_LONG = 17 << 20

# Rows with their turns, and the reason that each must get.
BROKEN_CHATS = {
    "no_quotes": (_WHOLE.replace(f'"{_TEXT}"', _TEXT), "invalid_json"),
    "quote_missing": (_WHOLE.replace(f'"{_TEXT}"', f'"{_TEXT}'), "invalid_json"),
    "first_quote_missing": (_WHOLE.replace(f'"{_TEXT}"', f'{_TEXT}"'), "invalid_json"),
    "quotes_inside": (_WHOLE.replace(_TEXT, 'a "word" here'), "invalid_json"),
    "escape": (_WHOLE.replace(_TEXT, r"a \q"), "invalid_json"),
    "raw_tab": (_WHOLE.replace(_TEXT, "a\tb"), "invalid_json"),
    "comma_too_many": (_WHOLE.replace("}]}", "},]}"), "invalid_json"),
    "comma_missing": (_WHOLE.replace("}, {", "} {"), "invalid_json"),
    "comment": (_WHOLE.replace("}, {", "}, /* why */ {"), "invalid_json"),
    "python": (_WHOLE.replace('"', "'"), "invalid_json"),
    "cut_in_text": (_WHOLE[:50], "invalid_json"),
    "cut_behind_turn": (_WHOLE[: _WHOLE.index("}, {") + 1], "invalid_json"),
    "brackets_missing": (_WHOLE[:-2], "invalid_json"),
    "brace_missing": (_WHOLE[:-1], "invalid_json"),
    "brackets_swapped": (_WHOLE.replace("}]}", "}}]"), "invalid_json"),
    "brackets_in_open_text": (_WHOLE.replace('"user",', '"user, }]},'), "invalid_json"),
    "not_finite": (_WHOLE.replace(f'"{_TEXT}"', "NaN"), "not_finite"),
    "key_twice": (_WHOLE.replace('"role": "user",', '"role": "user", "role": "user",'), "duplicate_key"),
    "surrogate": (_WHOLE.replace(_TEXT, r"\ud800"), "invalid_unicode"),
    "deep": (_WHOLE.replace(f'"{_TEXT}"', "[" * 5000 + "]" * 5000), "too_deep"),
}


def _array(name: str, broken: str, code: str) -> FileCase:
    text = "[\n" + ",\n".join([*_GOOD, broken, *_MORE]) + "\n]\n"
    return FileCase(f"chats_array_{name}", "a.json", text.encode(), 2 * GOOD_ROWS, {GOOD_ROWS + 2: code})


def _rows(name: str, broken: str, code: str) -> FileCase:
    text = "\n".join([*_GOOD, broken, *_MORE])
    return FileCase(f"chats_rows_{name}", "a.json", text.encode(), 2 * GOOD_ROWS, {GOOD_ROWS + 1: code})


def _on_one_line(name: str, broken: str, code: str) -> FileCase:
    text = "[" + ", ".join([*_GOOD, broken, *_MORE]) + "]"
    return FileCase(f"chats_one_line_{name}", "a.json", text.encode(), 2 * GOOD_ROWS, {1: code})


def _behind(name: str, text: str, kept: int, *lines: int) -> FileCase:
    """An array on the first line, and a text behind its bracket."""
    faults = dict.fromkeys(lines, "invalid_json")
    return FileCase(f"behind_{name}", "a.json", ("[" + ",".join(_GOOD) + "]" + text).encode(), kept, faults)


def _write_open_quote(path: Path) -> None:
    rows = [f"prompt {number},{'word ' * 30_000}{number}" for number in range(2 * GOOD_ROWS)]
    path.write_text("\n".join(["prompt,completion", '"open,a', *rows]))


def _write_long_line(path: Path) -> None:
    rows = [f"prompt {number},answer {number}" for number in range(GOOD_ROWS)]
    path.write_text("\n".join(["prompt,completion", *rows, "a," + "b" * _LONG, "another prompt,answer"]))


def _write_wide_parquet(path: Path) -> None:
    texts = [f"text {number} " + "word " * 30_000 for number in range(GOOD_ROWS)] + ["x" * _LONG, "the last text"]
    pq.write_table(pa.table({"text": texts}), path)


def _write_one_bad_value(path: Path) -> None:
    texts = [f"text {number}" for number in range(GOOD_ROWS)]
    times = pa.array([2**60, *range(1, GOOD_ROWS)], pa.timestamp("us"))
    pq.write_table(pa.table({"text": texts, "seen": times}), path)


DOCUMENT_CASES = [
    *(make(name, *case) for name, case in BROKEN_CHATS.items() for make in (_array, _rows, _on_one_line)),
    _behind("array", "\n[" + ",".join(_MORE) + "]", 2 * GOOD_ROWS),
    _behind("rows", "\n" + "\n".join(_MORE), 2 * GOOD_ROWS),
    _behind("garbage", "\ngarbage", GOOD_ROWS, 2),
    _behind("garbage_between", "\ngarbage\n" + "\n".join(_MORE), 2 * GOOD_ROWS, 2),
    _behind("bracket", "\n]", GOOD_ROWS, 2),
    _behind("open_array", "\n[", GOOD_ROWS, 2),
    FileCase("csv_quote_open_for_long", "a.csv", _write_open_quote, 2 * GOOD_ROWS, {2: "invalid_csv"}),
    FileCase("csv_long_line", "a.csv", _write_long_line, GOOD_ROWS + 1, {GOOD_ROWS + 2: "line_too_long"}),
    FileCase("parquet_wide", "a.parquet", _write_wide_parquet, GOOD_ROWS + 1, {GOOD_ROWS + 1: "line_too_long"}),
    FileCase("parquet_one_bad_value", "a.parquet", _write_one_bad_value, GOOD_ROWS - 1, {1: "wrong_shape"}),
]
