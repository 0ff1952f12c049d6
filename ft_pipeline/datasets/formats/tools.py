"""Tools and calls of tools, in the shapes in which data has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft_pipeline.datasets.conversation import RowFault, show_value
from ft_pipeline.datasets.json_text import decode_json


def read_tools(row: Mapping[str, Any]) -> list[Any]:
    """What a conversation may call: the column `tools`, a list of objects or JSON of one, or the older `functions`.

    A bare function becomes `{"type": "function", "function": ...}`, as a model is given it when it is used.

    Raises:
        RowFault: `wrong_shape`: no list of objects, or both columns are there.
    """
    if row.get("tools") is None and row.get("functions") is None:
        return []
    tools, functions = _read_objects(row, "tools"), _read_objects(row, "functions")
    if tools and functions:
        raise RowFault("wrong_shape", 'a row must have "tools" or the older "functions", not both')
    return [_wrap(tool) if "name" in tool else tool for tool in [*tools, *functions]]


def read_calls(turn: Mapping[str, Any], number: int) -> list[Any]:
    """What a turn calls: `tool_calls`, each `{"function": {"name": ...}}` or `{"name": ...}`, or one `function_call`.

    Args:
        number: Of the message, from 1, for errors.

    Raises:
        RowFault: `wrong_shape`: something else, or both are there.
    """
    calls, older = turn.get("tool_calls"), turn.get("function_call")
    if calls is None and older is None:
        return []
    if calls and older:
        raise RowFault("wrong_shape", f'message {number} must have "tool_calls" or "function_call", not both')
    if older is not None:
        return [_wrap(_check_call(older, f'"function_call" of message {number}'))]
    if not isinstance(calls, list):
        raise RowFault("wrong_shape", f'"tool_calls" of message {number} must be a list, got {show_value(calls)}')
    return [_check_call(call, f'a call in "tool_calls" of message {number}') for call in calls]


def read_call_text(text: str, number: int) -> list[Any]:
    """The calls that ShareGPT writes as text: JSON of `{"name": ..., "arguments": ...}` or of a list of such.

    Raises:
        RowFault: `wrong_shape`: it is something else.
    """
    place = f"message {number}, a function_call,"
    value = _decode(text, place)
    calls = [_check_call(call, place) for call in (value if isinstance(value, list) else [value])]
    if not calls:
        raise RowFault("wrong_shape", f"{place} must call a function, got {show_value(text)}")
    return [_wrap(call) for call in calls]


def _read_objects(row: Mapping[str, Any], column: str) -> list[Any]:
    value = row.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    if isinstance(value, str):
        value = _decode(value, f'"{column}"')
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise RowFault("wrong_shape", f'"{column}" must be a list of objects, got {show_value(row[column])}')
    return value


def _check_call(call: Any, place: str) -> dict[str, Any]:
    if isinstance(call, dict) and "function" in call and call["function"] is None:
        # Parquet, whose rows all have the same fields, of a call that names its function itself.
        call = {field: value for field, value in call.items() if field != "function"}
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RowFault("wrong_shape", f"{place} must be an object that names its function, got {show_value(call)}")
    arguments = function.get("arguments")
    if arguments is not None and not isinstance(arguments, str | dict):
        raise RowFault("wrong_shape", f"{place} must have arguments as an object or JSON, got {show_value(arguments)}")
    return dict(call)


def _decode(text: str, place: str) -> Any:
    try:
        return decode_json(text.encode())
    except RowFault as err:
        raise RowFault("wrong_shape", f"{place} must be JSON, got {show_value(text)}: {err}") from err


def _wrap(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function, or the call of one, as it stands beside others; what has a type or is wrapped stays as it is."""
    if "function" in function or "type" in function:
        return dict(function)
    return {"type": "function", "function": dict(function)}
