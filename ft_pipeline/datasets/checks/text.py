"""What can be wrong with one text: found in all texts of a chunk at once, and mended where it can be."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from ft_pipeline.datasets.checks.personal import (
    CARD_GATE,
    EMAIL_GATE,
    has_card_number,
    has_email,
    hide_card_numbers,
    hide_emails,
)
from ft_pipeline.datasets.checks.secrets import SECRET_GATES, has_secret, hide_secrets

_BOM = "\ufeff"
_NONCHARACTERS = "\ufdd0-\ufdef" + "".join(
    f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(17)
)
# Besides ASCII's and Latin-1's: what makes text read other than it is stored (bidirectional overrides, see
# https://trojansource.codes), and tags, which spell text that nobody sees. Joiners are part of emoji and of scripts.
_CONTROL = f"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202d\u202e\U000e0000-\U000e007f{_NONCHARACTERS}]"
# The one use of tags: flags of England, Scotland and the like. Source: https://www.unicode.org/reports/tr51/
_FLAG = "\U0001f3f4[\U000e0061-\U000e007a]{2}[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,3}\U000e007f"
_FLAG_OR_CONTROL = re.compile(f"({_FLAG})|{_CONTROL}")
_content = pl.col("content")
_is_ascii = _content.str.len_bytes() == _content.str.len_chars()
# Nothing but spaces and what has neither ink nor width.
IS_BLANK = _content.str.contains(r"\A[\s\p{Default_Ignorable_Code_Point}]*\z")


@dataclass(frozen=True)
class TextCheck:
    """How one kind of breach is found and mended.

    Attributes:
        gate: A quick test that passes every text with a breach, and few others.
        confirm: The exact test of a text that passed; None where the gate is exact.
        mend: The text without the breach; None where there is no mending.
    """

    gate: pl.Expr
    confirm: Callable[[str], bool] | None = None
    mend: Callable[[str], str] | None = None


TEXT_CHECKS: dict[str, TextCheck] = {
    "byte_order_mark": TextCheck(
        ~_is_ascii & _content.str.contains(_BOM, literal=True), mend=lambda text: text.replace(_BOM, "")
    ),
    "control_character": TextCheck(
        _content.str.contains(_CONTROL),
        confirm=lambda text: any(match[1] is None for match in _FLAG_OR_CONTROL.finditer(text)),
        mend=lambda text: _FLAG_OR_CONTROL.sub(r"\1", text),
    ),
    "not_nfc": TextCheck(
        ~_is_ascii,
        confirm=lambda text: not unicodedata.is_normalized("NFC", text),
        mend=lambda text: unicodedata.normalize("NFC", text),
    ),
    "replacement_character": TextCheck(~_is_ascii & _content.str.contains("\ufffd", literal=True)),
    "secret": TextCheck(
        pl.any_horizontal(map(_content.str.contains, SECRET_GATES)), confirm=has_secret, mend=hide_secrets
    ),
    "email": TextCheck(EMAIL_GATE, confirm=has_email, mend=hide_emails),
    "card_number": TextCheck(CARD_GATE, confirm=has_card_number, mend=hide_card_numbers),
}


def find_texts(texts: pl.DataFrame, check: TextCheck, is_out: pl.Series | None = None) -> list[int]:
    """Positions in a frame with the column `content` whose text breaks a check, those left out that are out anyway."""
    wanted = check.gate if is_out is None else ~is_out & check.gate
    hits = texts.select(pl.arg_where(wanted)).to_series()
    if check.confirm is None:
        return hits.to_list()
    contents = texts["content"].gather(hits)
    return [hit for hit, text in zip(hits, contents, strict=True) if check.confirm(text)]


def mend_text(text: str, check: TextCheck) -> str | None:
    """The text without its breach; None where it has one even so, or there is no mending."""
    if check.mend is None:
        return None
    mended = check.mend(text)
    return None if check.confirm and check.confirm(mended) else mended
