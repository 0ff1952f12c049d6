"""Numbers of payment cards: 13 to 19 digits with the checksum of Luhn. Source: ISO/IEC 7812-1, annex B."""

from __future__ import annotations

import re

_CANDIDATE = re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.]?\d)")
# The first digits that card networks have; without them one number in ten would pass.
_ISSUER = re.compile(r"4|5[1-5]|2[2-7]|3[4-7]|3[068]|6(?:011|4|5|2)")


def has_card_number(text: str) -> bool:
    """Whether a text holds one."""
    return any(_is_card(match[0]) for match in _CANDIDATE.finditer(text))


def hide_card_numbers(text: str) -> str:
    """The text with `[CARD]` in the place of each."""
    return _CANDIDATE.sub(lambda match: "[CARD]" if _is_card(match[0]) else match[0], text)


def _is_card(candidate: str) -> bool:
    from stdnum import luhn

    digits = re.sub("[ -]", "", candidate)
    return _ISSUER.match(digits) is not None and len(set(digits)) > 1 and bool(luhn.is_valid(digits))
