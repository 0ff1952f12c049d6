"""Lines that are no JSON, or JSON that must not pass: syntax, encodings, numbers, keys, depth."""

from __future__ import annotations

from ft_pipeline_tests.datasets.corpus import RowCase, row
from ft_pipeline_tests.datasets.data_folder import good, turns

_WHOLE = good(999).encode()
_PART = '{"messages": [{"role": "user", "content": "a%s"}, {"role": "assistant", "content": "b"}]%s}'
_BYTES = (_PART % ("@", "")).encode()


def beside(text: str) -> str:
    """A good row with one more field."""
    return _PART % ("", f', "x": {text}')


def within(text: str) -> str:
    """A good row whose question holds a text, as it stands."""
    return _PART % (text, "")


def _nest(opening: str, closing: str, depth: int, core: str = "1") -> str:
    return opening * depth + core + closing * depth


_SYNTAX = {
    "single_quotes": "{'messages': []}",
    "comma_before_brace": _PART % ("", ","),
    "comma_in_array": '{"messages": [1,]}',
    "two_commas": '{"messages": [1,,2]}',
    "no_colon": '{"messages" []}',
    "no_quotes_at_key": "{messages: []}",
    "no_comma": '{"a": 1 "messages": []}',
    "key_alone": '{"messages"}',
    "line_comment": "// a comment",
    "block_comment": beside("/* why */ 1"),
    "hash_comment": "# a comment",
    "markup": "<html><body>404 Not Found</body></html>",
    "yaml": "messages: []",
    "log_line": "2026-01-01 12:00:00 INFO started",
    "word": "broken",
    "python_true": beside("True"),
    "python_none": beside("None"),
    "undefined": beside("undefined"),
    "plus": beside("+1"),
    "leading_zero": beside("01"),
    "bare_fraction": beside(".5"),
    "bare_point": beside("5."),
    "hexadecimal": beside("0x1f"),
    "bare_exponent": beside("1e"),
    "minus_alone": beside("-"),
    "two_rows_on_a_line": good(1) + good(2),
    "row_and_comma": good(1) + ",",
    "bracket_first": "[" + good(1),
    "only_open": "{",
    "only_close": "}",
    "mismatched": '{"messages": [}',
    "closed_twice": good(1) + "}",
    "quote_in_text": within('"b'),
    "escape_x": within(r"\x41"),
    "escape_quote": within(r"\'"),
    "escape_short": within(r"\u12"),
    "escape_no_hex": within(r"\uZZZZ"),
    "escape_at_end": '{"messages": "\\',
    "raw_tab": within("\t"),
    "raw_nul": within("\0"),
    "raw_escape": within("\x1b"),
    "raw_unit_separator": within("\x1f"),
    "form_feed_between": beside("\f1"),
    "no_break_space_between": beside("\u00a01"),
    "mark_at_a_later_line": "\ufeff" + good(1),
    "nul_bytes": "\0\0\0\0",
    "git_conflict": "<<<<<<< HEAD",
}
_ENCODING = {
    "latin_1": b"\xe9",
    "windows_1252": b"\x93quoted\x94",
    "lone_continuation": b"\x80",
    "cut_sequence": b"\xe2\x82",
    "overlong_nul": b"\xc0\x80",
    "overlong_slash": b"\xe0\x80\xaf",
    "surrogate_in_bytes": b"\xed\xa0\x80",
    "beyond_unicode": b"\xf4\x90\x80\x80",
    "five_bytes": b"\xf8\x88\x80\x80\x80",
    "ff": b"\xff\xfe",
    "gb18030": "数学".encode("gb18030"),
}
_SURROGATES = {
    "high": r"\ud800",
    "low": r"\udc00",
    "high_then_letter": r"\ud83dx",
    "swapped": r"\udc00\ud800",
    "two_high": r"\ud83d\ud83d",
    "upper_case": r"\uD83D",
}
_NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "[1, NaN]", '{"a": 1e400}')
_KEYS = {
    "messages": _PART % ("", ', "messages": []'),
    "role": '{"messages": [{"role": "user", "role": "assistant", "content": "a"}]}',
    "content": '{"messages": [{"role": "user", "content": "a", "content": "b"}, {"role": "assistant", "content": "b"}]}',  # noqa: E501
    "deep": beside('[[{"a": {"b": 1, "b": 2}}]]'),
    "escaped": beside(r'{"a": 1, "\u0061": 2}'),
    "spaced": beside('{"a" : 1, "a"\t: 2}'),
    "one_spaced": beside('{"a": 1, "a" : 2}'),
    "empty": beside('{"": 1, "": 2}'),
    "thrice": beside('{"a": 1, "a": 1, "a": 1}'),
    "hidden_by_text": beside(r'{"a": "\":", "a": 2}'),
    "behind_backslashes": beside(r'{"a\\": 1, "a\\": 2}'),
    "text_with_no_key": beside(r'{"a": "\\\":", "a": 2}'),
}
_DEEP = {
    "arrays_open": "[" * 100_000,
    "objects_open": '{"a":' * 100_000,
    "arrays": _nest("[", "]", 100_000),
    "objects": _nest('{"a":', "}", 100_000),
    "arrays_in_a_row": beside(_nest("[", "]", 100_000)),
    "objects_in_a_row": beside(_nest('{"a":', "}", 100_000)),
    "content": '{"messages": [{"role": "user", "content": ' + _nest("[", "]", 100_000) + "}]}",
    "tools": _PART % ("", ', "tools": ' + _nest("[", "]", 100_000)),
}


def _deeper() -> list[RowCase]:
    """Around what this or that library can still read: any of these may be too deep, and none may end the run."""
    cases = []
    for depth in (50, 200, 330, 480, 700, 900, 960, 990, 1100, 3000):
        codes = ("too_deep", "wrong_shape", "not_text", "template_refuses") if depth > 100 else ("not_text",)
        content = '{{"messages": [{{"role": "user", "content": {}}}]}}'.format(_nest("[", "]", depth))
        cases.append(row(f"content_{depth}_deep", content, *codes))
        cases.append(
            row(f"messages_{depth}_deep", '{{"messages": {}}}'.format(_nest("[", "]", depth)), "wrong_shape", *codes)
        )
    return cases


SYNTAX_CASES = [
    *(row(f"cut_after_{end}", _WHOLE[:end], "invalid_json") for end in range(1, len(_WHOLE), 3)),
    *(row(f"syntax_{name}", line, "invalid_json") for name, line in _SYNTAX.items()),
    *(row(f"encoding_{name}", _BYTES.replace(b"@", raw), "invalid_utf8") for name, raw in _ENCODING.items()),
    row("encoding_utf_16_line", good(1).encode("utf-16-le"), "invalid_json"),
    *(row(f"surrogate_{name}", within(text), "invalid_unicode") for name, text in _SURROGATES.items()),
    row("surrogate_in_key", beside(r'{"\ud800": 1}'), "invalid_unicode"),
    row("surrogate_in_role", r'{"messages": [{"role": "\ud800", "content": "a"}]}', "invalid_unicode"),
    *(row(f"number_{text[:12]}", beside(text), "not_finite") for text in _NUMBERS),
    row("number_of_5000_digits", beside("9" * 5000), "invalid_json", "not_finite"),
    *(row(f"key_twice_{name}", line, "duplicate_key") for name, line in _KEYS.items()),
    *(row(f"bomb_{name}", line, "too_deep", "invalid_json") for name, line in _DEEP.items()),
    *_deeper(),
    row("fine_number_of_300_digits", beside("9" * 300)),
    row("fine_small_number", beside("1e-999")),
    row("fine_pair", within(r"\ud83d\ude00")),
    row("fine_line_separator", within("\u2028")),
    row("fine_escaped_line_separator", within(r"\u2028\u2029")),
    row("fine_escaped_solidus", within(r"\/")),
    row("fine_carriage_return", good(999) + "\r"),
    row("fine_blanks_around", f" \t{good(999)}  "),
    row("fine_key_in_text", within(r"{\"role\": \"user\", \"role\": 1}")),
    row("fine_long_key", '{"%s": 1, ' % ("k" * 1_000_000) + turns(("user", "a"), ("assistant", "b"))[1:]),
    row("fine_same_key_in_two_objects", beside('[{"a": 1}, {"a": 1}]')),
    row("noncharacter", within("\uffff"), "control_character"),
]
