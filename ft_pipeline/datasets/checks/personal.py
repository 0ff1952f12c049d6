"""What belongs to a person: e-mail addresses and numbers of payment cards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import polars as pl

_EMAIL = r"(?i)\b[a-z0-9._%+-]+@[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9-]+)*\.[a-z]{2,24}\b"
_MAX_LOCAL = 64  # RFC 5321, section 4.5.3.1.1
_LOCAL = re.compile(r"[a-z0-9._%+-]+\Z", re.IGNORECASE)
_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9-]{1,63}){0,8}\.[a-z]{2,24}\b", re.IGNORECASE)
# What stands between the groups of a number: spaces of several widths, a hyphen or a dot.
_GAP = r"[ .\-\x{a0}\x{2007}\x{2009}\x{202f}]{0,2}"
_content = pl.col("content")
EMAIL_GATE = _content.str.contains("@", literal=True) & _content.str.contains(_EMAIL)
# Rust's regex takes a fifth longer for [0-9] here.
CARD_GATE = _content.str.contains(rf"\d(?:{_GAP}\d){{13}}")

_RUN = re.compile("[0-9]+(?:[ .\\-\u00a0\u2007\u2009\u202f]{1,2}[0-9]+)*")
_GROUP = re.compile("[0-9]+")
# First digits of a network's numbers, from and to, and how many digits they have. Sources:
# https://github.com/braintree/credit-card-type/blob/main/src/lib/card-types.ts and, for the first digits of Maestro,
# https://en.wikipedia.org/wiki/Payment_card_number
_NETWORKS: tuple[tuple[str, str, frozenset[int]], ...] = (
    ("4", "4", frozenset({16, 18, 19})),  # Visa
    ("51", "55", frozenset({16})),  # Mastercard
    ("2221", "2720", frozenset({16})),
    ("34", "34", frozenset({15})),  # American Express
    ("37", "37", frozenset({15})),
    ("300", "305", frozenset({14, 16, 19})),  # Diners Club
    ("36", "36", frozenset({14, 16, 19})),
    ("38", "39", frozenset({14, 16, 19})),
    ("6011", "6011", frozenset({16, 19})),  # Discover
    ("644", "649", frozenset({16, 19})),
    ("65", "65", frozenset({16, 19})),
    ("3528", "3589", frozenset({16, 17, 18, 19})),  # JCB
    ("62", "62", frozenset({16, 17, 18, 19})),  # UnionPay
    ("5018", "5018", frozenset(range(14, 20))),  # Maestro
    ("5020", "5020", frozenset(range(14, 20))),
    ("5038", "5038", frozenset(range(14, 20))),
    ("5893", "5893", frozenset(range(14, 20))),
    ("6304", "6304", frozenset(range(14, 20))),
    ("6759", "6763", frozenset(range(14, 20))),
    ("2200", "2204", frozenset({16, 17, 18, 19})),  # Mir
)
_MIN_DIGITS, _MAX_DIGITS = 14, 19
_MIN_GROUP = 4


def has_email(text: str) -> bool:
    """Whether a text holds an e-mail address."""
    return next(_find_emails(text), None) is not None


def hide_emails(text: str) -> str:
    """The text with `[EMAIL]` in the place of each address."""
    return _hide(text, _find_emails(text), "[EMAIL]")


def has_card_number(text: str) -> bool:
    """Whether a text holds the number of a payment card."""
    return next(_find_cards(text), None) is not None


def hide_card_numbers(text: str) -> str:
    """The text with `[CARD]` in the place of each number."""
    return _hide(text, _find_cards(text), "[CARD]")


def _hide(text: str, places: Iterable[tuple[int, int]], mark: str) -> str:
    parts, end = [], 0
    for start, stop in places:
        parts += [text[end:start], mark]
        end = stop
    return "".join([*parts, text[end:]])


def _find_emails(text: str) -> Iterator[tuple[int, int]]:
    """Where addresses stand, in their order; from each "@" outwards, so that no run is searched twice."""
    end = 0
    for at in re.finditer("@", text):
        local = _LOCAL.search(text[max(end, at.start() - _MAX_LOCAL) : at.start()])
        domain = _DOMAIN.match(text, at.end())
        if local and domain:
            yield at.start() - len(local[0]), domain.end()
            end = domain.end()


def _find_cards(text: str) -> Iterator[tuple[int, int]]:
    """Where card numbers stand, in their order.

    A number may begin and end with any group of a run of digits: "cvv 123 4111..." is one run.
    """
    for run in _RUN.finditer(text):
        if run.end() - run.start() < _MIN_DIGITS:
            continue
        groups = [(match.start(), match.end()) for match in _GROUP.finditer(text, *run.span())]
        first = 0
        while first < len(groups):
            last = _find_last_group(text, groups, first)
            if last is not None:
                yield groups[first][0], groups[last][1]
                first = last
            first += 1


def _find_last_group(text: str, groups: list[tuple[int, int]], first: int) -> int | None:
    """The last group of the card number that begins with a group; None where none does.

    Every group but the last must have four digits, or rows of small numbers would pass. One that is next to a dot and
    more digits is a fraction.
    """
    digits = ""
    for last in range(first, len(groups)):
        start, end = groups[last]
        digits += text[start:end]
        if len(digits) > _MAX_DIGITS:
            return None
        is_whole = not _has_point(text, groups, first) and not _has_point(text, groups, last + 1)
        if len(digits) >= _MIN_DIGITS and is_whole and _is_card(digits):
            return last
        if end - start < _MIN_GROUP:
            return None
    return None


def _has_point(text: str, groups: list[tuple[int, int]], number: int) -> bool:
    """Whether a dot joins a group to the one before it."""
    return 0 < number < len(groups) and text[groups[number - 1][1] : groups[number][0]] == "."


def _is_card(digits: str) -> bool:
    """Whether digits are those of a network, with the checksum of Luhn. Source: ISO/IEC 7812-1, annex B."""
    from stdnum import luhn

    known = any(first <= digits[: len(first)] <= last and len(digits) in lengths for first, last, lengths in _NETWORKS)
    return known and len(set(digits)) > 1 and bool(luhn.is_valid(digits))
