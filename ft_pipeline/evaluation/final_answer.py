"""The final answer in an answer: a match of a pattern, the last number; and when two are the same.

Patterns are those of the `regex` package, which understands those of `re` and can be given up: one that backtracks
without end finds nothing.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from functools import lru_cache

TIMEOUT_SECONDS = 0.2
# A final answer is near the end; a pattern is not let loose on more.
_MAX_CHARS = 10_000
_MAX_NUMBER_CHARS = 1000
_THOUSANDS = ",\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}\N{THIN SPACE}"
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,4})?")
# Not within a word, such as a code; a minus is a sign unless it stands between two, as in 10-5.
_NUMBER_IN_TEXT = re.compile(
    r"(?<![^\W_])(?:[-+−][$€£¥₹]?|[$€£¥₹][-+−])?"
    rf"(?:(?:\d{{1,3}}(?:[{_THOUSANDS}]\d{{3}})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][-+−]?\d{1,4}(?!\w))?"
)


def count_groups(pattern: str) -> int:
    """How many groups a pattern has.

    Raises:
        ValueError: it is no regular expression.
    """
    import regex

    try:
        return int(regex.compile(pattern).groups)
    except regex.error as err:
        raise ValueError(f"a pattern must be a regular expression; {pattern!r} is none: {err}") from err


def check_answer_pattern(pattern: str) -> None:
    """Take only what `find_last` can use.

    Raises:
        ValueError: the pattern is no regular expression, or has several groups.
    """
    if (groups := count_groups(pattern)) > 1:
        raise ValueError(
            f"a pattern must have one group at most, the answer; {pattern!r} has {groups}. Write the others as (?:...)."
        )


@lru_cache(maxsize=1 << 14)
def find_first(pattern: str, text: str) -> str | None:
    """The group of the pattern's first match; None: it has none."""
    import regex

    try:
        match = regex.compile(pattern).search(text, timeout=TIMEOUT_SECONDS)
    except TimeoutError:
        return None
    return None if match is None else str(match[1])


@lru_cache(maxsize=1 << 14)  # every contestant has the same references
def find_last(pattern: str, text: str) -> str | None:
    """The group, or else the whole, of the pattern's last match in the last 10,000 characters; None: it has none."""
    import regex

    compiled = regex.compile(pattern)
    found: str | None = None
    try:
        for match in compiled.finditer(text[-_MAX_CHARS:], timeout=TIMEOUT_SECONDS):
            found = match[compiled.groups] if match[compiled.groups] is not None else found
    except TimeoutError:
        return None
    return found


def matches_whole(pattern: str, text: str) -> bool:
    """Whether the pattern matches all of the text; one that takes too long does not."""
    import regex

    try:
        return regex.compile(pattern).fullmatch(text, timeout=TIMEOUT_SECONDS) is not None
    except TimeoutError:
        return False


def is_same_answer(given: str, wanted: str) -> bool:
    """Equal numbers where both are numbers, else equal texts but for their case and white space around them."""
    numbers = read_number(given), read_number(wanted)
    if None not in numbers:
        return numbers[0] == numbers[1]
    ours, theirs = (unicodedata.normalize("NFKC", text).casefold().strip() for text in (given, wanted))
    return ours == theirs


def read_number(text: str) -> Decimal | None:
    """The number that the text is; None: it is none.

    Thousands separators, a currency sign and a last period are left out.
    """
    if len(text) > _MAX_NUMBER_CHARS:
        return None
    kept = (char for char in text.replace("−", "-") if char not in _THOUSANDS and unicodedata.category(char) != "Sc")
    bare = "".join(kept).strip().removesuffix(".")
    sign = bare[:1] if bare[:1] in "-+" else ""
    digits = sign + bare[len(sign) :].lstrip()
    return Decimal(digits) if _NUMBER.fullmatch(digits) else None


def find_last_number(text: str) -> Decimal | None:
    """The last number in a text, English notation; None: it has none."""
    last = None
    for match in _NUMBER_IN_TEXT.finditer(text):
        last = match
    return None if last is None else read_number(last[0])
