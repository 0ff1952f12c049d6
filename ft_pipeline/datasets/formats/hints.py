"""The likely cause where no format fits a file's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MAP = "Map yours in the recipe, e.g. dataset.columns: {prompt: question, completion: answer}."
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def advise(rows: Sequence[Any]) -> str:
    """What to do with a file of which these are the first rows."""
    objects = [row for row in rows if isinstance(row, dict)]
    if not objects:
        return f"A row must be an object whose fields have names, and these are {_name_kind(rows[0])}."
    first = objects[0]
    if any("chosen" in row and "rejected" in row for row in objects):
        return (
            "These look like pairs of a chosen and a rejected answer (DPO): preference data is not supported. To train "
            "on the chosen answers alone, map them, e.g. dataset.columns: {completion: chosen}."
        )
    if len(first) == 1 and (word := _find_separator(str(next(iter(first))))):
        return f"The only column looks like several with {word} between them: write the file with commas."
    if column := _find_turns(first):
        return f'"{column}" holds turns. Map it, e.g. dataset.columns: {{messages: {column}}}.'
    if len(rows) == 1 and (column := _find_list(first)):
        return f'The rows seem to lie in the list "{column}" of one object: make that list the whole file.'
    return _MAP


def _name_kind(value: Any) -> str:
    kinds = {list: "lists", str: "texts", bool: "truth values", int: "numbers", float: "numbers"}
    return kinds.get(type(value), "null" if value is None else type(value).__name__)


def _find_separator(name: str) -> str | None:
    return next((word for separator, word in _SEPARATORS.items() if separator in name), None)


def _find_turns(row: Mapping[str, Any]) -> str | None:
    """A column that holds a conversation under a name that no format has."""
    return next((column for column, value in row.items() if _are_objects(value) and _is_turn(value[0])), None)


def _find_list(row: Mapping[str, Any]) -> str | None:
    found = [column for column, value in row.items() if _are_objects(value)]
    return found[0] if len(found) == 1 else None


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _is_turn(item: Mapping[str, Any]) -> bool:
    return {"role", "content"} <= item.keys() or {"from", "value"} <= item.keys()
