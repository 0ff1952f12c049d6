"""Share of the fields of the reference objects that the answers have right, over all fields of all rows.

A field is a value that is no object and no list, or an empty one; a nested one goes by its path, an element of a list
by its position. Values must be equal: 1 is 1.0, but neither "1" nor true; the order of keys says nothing. Each key and
each element too many takes one right field away, whatever it holds, down to none: who guesses more does not win. An
answer that is no JSON object has none right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ft_pipeline.evaluation.metrics.json_text import read_object
from ft_pipeline.evaluation.metrics.metric import Metric

if TYPE_CHECKING:
    from ft_pipeline.evaluation.rows import ScoredRow

_MISSING = object()


def compare_fields(wanted: Any, given: Any) -> tuple[list[tuple[str, bool]], int]:
    """Every field of `wanted`, by its dotted path, and whether `given` has it right; and how much is too many there.

    All elements of a list share one path, `items[].name`.
    """
    fields: list[tuple[str, bool]] = []
    too_many = 0
    # No recursion: JSON may be nested as deep as Python can call.
    left = [("", wanted, given)]
    while left:
        path, value, other = left.pop()
        if not value or not isinstance(value, dict | list):
            fields.append((path, _is_equal(value, other)))
            continue
        inner, surplus = _pair_keys(path, value, other) if isinstance(value, dict) else _pair_items(path, value, other)
        left += reversed(inner)
        too_many += surplus
    return fields, too_many


def _pair_keys(path: str, wanted: dict[str, Any], other: Any) -> tuple[list[tuple[str, Any, Any]], int]:
    given = other if isinstance(other, dict) else {}
    inner = [(f"{path}.{key}" if path else key, value, given.get(key, _MISSING)) for key, value in wanted.items()]
    return inner, len(given.keys() - wanted.keys())


def _pair_items(path: str, wanted: list[Any], other: Any) -> tuple[list[tuple[str, Any, Any]], int]:
    given = other if isinstance(other, list) else []
    padded = given + [_MISSING] * (len(wanted) - len(given))
    inner = [(f"{path}[]", value, item) for value, item in zip(wanted, padded, strict=False)]
    return inner, max(0, len(given) - len(wanted))


def _is_equal(value: Any, other: Any) -> bool:
    # In Python True is 1.
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def compare_row(row: ScoredRow) -> tuple[list[tuple[str, bool]], int]:
    """`compare_fields` of the row's reference and its answer; nothing where the reference is no JSON object."""
    wanted = None if row.row.check else read_object(row.row.reference)
    if wanted is None:
        return [], 0
    return compare_fields(wanted, None if row.fault else read_object(row.prediction))


def _count_right(row: ScoredRow) -> float:
    fields, too_many = compare_row(row)
    return float(max(0, sum(right for _, right in fields) - too_many))


JSON_FIELDS = Metric("JSON fields", "share", part=_count_right, weight=lambda row: float(len(compare_row(row)[0])))
