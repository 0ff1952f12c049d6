"""How far two sequences begin alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile


def count_agreed(left: Sequence[object], right: Sequence[object]) -> int:
    """Elements, from the first on, that both have in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))
