"""JSON as the standard defines it, fast: what Python's decoder lets through (NaN, a key twice, 1e999) is a fault."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import msgspec

from ft_pipeline.datasets.conversation import RowFault, show_value

_fast = msgspec.json.Decoder()
_SPACED_KEY = re.compile(rb'"[ \t\r\n]+:')
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


def decode_json(raw: bytes) -> Any:
    """The value of one JSON text.

    Raises:
        RowFault: `invalid_utf8`, `invalid_json`, `duplicate_key`, `not_finite`, `too_deep` or `invalid_unicode`.
    """
    try:
        value = _fast.decode(raw)
        is_sound = not _may_repeat_a_key(raw, value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        is_sound = False
    return value if is_sound else _decode_carefully(raw)


def _may_repeat_a_key(raw: bytes, value: Any) -> bool:
    """Whether a key may stand twice: more quotes stand before colons than keys are left, or some are hidden."""
    quotes = raw.count(b'":')
    keys = _count_keys(value)
    if quotes != keys:
        quotes -= raw.count(b'\\":')
    return quotes != keys or b'\\\\"' in raw or _SPACED_KEY.search(raw) is not None


def _count_keys(value: Any) -> int:
    if type(value) is dict:
        return len(value) + sum(_count_keys(item) for item in value.values() if type(item) in (dict, list))
    if type(value) is list:
        return sum(_count_keys(item) for item in value if type(item) in (dict, list))
    return 0


def _decode_carefully(raw: bytes) -> Any:
    try:
        text = raw.decode()
    except UnicodeDecodeError as err:
        raise RowFault("invalid_utf8", f"not UTF-8: {err.reason}", err.start + 1) from err
    try:
        value = _careful.decode(text)
    except json.JSONDecodeError as err:
        # Of one line: the standard's own line breaks inside it are no places of ours.
        raise RowFault("invalid_json", f"not valid JSON: {err.msg}", err.pos + 1) from err
    except RecursionError as err:
        raise RowFault("too_deep", "nested deeper than can be read") from err
    except RowFault:
        raise
    except ValueError as err:
        raise RowFault("invalid_json", f"not valid JSON: {err}") from err
    require_whole_characters(text, value)
    return value


def require_whole_characters(text: str, value: Any) -> None:
    """Refuse half a surrogate pair, which no file and no tokenizer can hold.

    Raises:
        RowFault: `invalid_unicode`.
    """
    if not (half := _HALF_PAIR.search(text)):
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as err:
        raise RowFault("invalid_unicode", "half a surrogate pair", half.start() + 1) from err
    except RecursionError as err:
        raise RowFault("too_deep", "nested deeper than can be read") from err


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RowFault("duplicate_key", f"the key {show_value(twice)} stands twice in an object")
    return found


def _refuse(name: str) -> NoReturn:
    raise RowFault("not_finite", f"{name[:20]} is no number of JSON")


def _read_float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        _refuse(text)
    return value


_careful = json.JSONDecoder(object_pairs_hook=_without_repeats, parse_constant=_refuse, parse_float=_read_float)


def read_value(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at `start`, and where it ends.

    Raises:
        RowFault, json.JSONDecodeError, RecursionError, ValueError: it cannot be read.
    """
    return _careful.raw_decode(text, start)
