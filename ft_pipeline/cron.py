"""Cron expressions that all programs take for the same: five fields of numbers or names, ranges, steps and `*`."""

from __future__ import annotations

import re

from croniter import CroniterBadDateError, croniter

_PART = re.compile(r"(?:\*|([a-z]{3}|\d{1,2})(?:-([a-z]{3}|\d{1,2}))?)(?:/(\d{1,2}))?", re.ASCII)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# The least and the largest value of each field, and names for them from the least on.
_FIELDS: tuple[tuple[int, int, tuple[str, ...]], ...] = (
    (0, 59, ()),
    (0, 23, ()),
    (1, 31, ()),
    (1, 12, _MONTHS),
    (0, 7, _DAYS),
)


def check_cron(cron: str) -> str:
    """The expression with single blanks.

    What programs add to the five fields, each its own (R for any time, W for the nearest workday), is refused.

    Raises:
        ValueError: it is none, or the days that it names never come.
    """
    plain = " ".join(cron.split())
    fields = plain.lower().split()
    if len(fields) != len(_FIELDS) or not all(map(_is_field, fields, _FIELDS)):
        raise ValueError(
            "a cron expression has five fields of numbers, ranges, steps and *, such as '0 2 * * *' for two at night; "
            f"got {cron!r}"
        )
    try:
        croniter(plain, 0.0).get_next()
    except CroniterBadDateError as err:
        raise ValueError(f"a cron expression must name a day that comes, {cron!r} names none") from err
    return plain


def _is_field(text: str, bounds: tuple[int, int, tuple[str, ...]]) -> bool:
    return all(_is_part(part, *bounds) for part in text.split(","))


def _is_part(text: str, least: int, most: int, names: tuple[str, ...]) -> bool:
    found = _PART.fullmatch(text)
    if not found:
        return False
    first, last, step = found.groups()
    numbers = {name: number for number, name in enumerate(names, least)} | {None: least}
    begin, end = (numbers[at] if at in numbers else int(at) if at.isdigit() else -1 for at in (first, last))
    # A range of one value, or one that goes down, is all values to some programs.
    if not least <= begin <= most or (last and not begin < end <= most):
        return False
    return step is None or 1 <= int(step) <= (end if last else most)
