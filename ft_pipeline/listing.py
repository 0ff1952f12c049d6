"""Names and facts in a sentence, of which there may be too many."""

from __future__ import annotations

from collections.abc import Sequence


def name_some(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are: `a, b and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def tell_some(facts: Sequence[str], most: int, between: str = "; ") -> str:
    """The first facts, each of several words, and how many more there are: `a is b; c is d; and 3 more`."""
    more = [f"and {len(facts) - most} more"] if len(facts) > most else []
    return between.join([*facts[:most], *more])
