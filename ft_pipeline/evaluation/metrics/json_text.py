"""JSON as RFC 8259 has it, stricter than Python's: what a consumer in another language would refuse is no JSON."""

from __future__ import annotations

import json
import math
from decimal import Decimal, InvalidOperation
from typing import Any

_MAX_INTEGER_CHARS = 300


def parse_json(text: str) -> Any:
    """The value of a text that is JSON and nothing else; 1 and 1.0 are equal numbers.

    Raises:
        ValueError: it is no JSON, has a key twice in an object, NaN or an infinity, or is nested too deep to be read.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError as err:
        raise ValueError("nested too deep") from err


def is_json(text: str) -> bool:
    """Whether the text is JSON and nothing else: no code fence, no word before or after it."""
    try:
        parse_json(text)
    except ValueError:
        return False
    return True


def read_object(text: str) -> dict[str, Any] | None:
    """The JSON object that the text is; None for any other text."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        value: dict[str, Any] = parse_json(text)
    except ValueError:
        return None
    return value


def _read_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) < len(pairs):
        raise ValueError("a key stands twice")
    return read


def _read_integer(digits: str) -> int | Decimal:
    # Python refuses to read an integer of more than 4,300 digits.
    return int(digits) if len(digits) <= _MAX_INTEGER_CHARS else Decimal(digits)


def _read_float(digits: str) -> float | Decimal:
    value = float(digits)
    if math.isfinite(value):
        return value
    try:
        return Decimal(digits)
    except InvalidOperation as err:
        raise ValueError("a number is too large to be read") from err


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_read_pairs, parse_int=_read_integer, parse_float=_read_float, parse_constant=_refuse_constant
)
