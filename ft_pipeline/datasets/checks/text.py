"""What can be wrong with one text: found in all texts of a chunk at once, and mended where it can be."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from ft_pipeline.datasets.checks.personal import has_card_number, hide_card_numbers
from ft_pipeline.datasets.checks.secrets import SECRET_GATE, has_secret, hide_secrets

_BOM = "\ufeff"
_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
_EMAIL = r"(?i)\b[a-z0-9._%+-]+@[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9-]+)*\.[a-z]{2,24}\b"
_DIGITS = r"\d(?:[ -]?\d){12,18}"
_content = pl.col("content")
_is_ascii = _content.str.len_bytes() == _content.str.len_chars()


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
    "control_character": TextCheck(_content.str.contains(_CONTROL), mend=lambda text: re.sub(_CONTROL, "", text)),
    "not_nfc": TextCheck(
        ~_is_ascii,
        confirm=lambda text: not unicodedata.is_normalized("NFC", text),
        mend=lambda text: unicodedata.normalize("NFC", text),
    ),
    "replacement_character": TextCheck(~_is_ascii & _content.str.contains("\ufffd", literal=True)),
    "secret": TextCheck(SECRET_GATE, confirm=has_secret, mend=hide_secrets),
    "email": TextCheck(
        _content.str.contains("@", literal=True) & _content.str.contains(_EMAIL),
        mend=lambda text: re.sub(_EMAIL, "[EMAIL]", text),
    ),
    "card_number": TextCheck(_content.str.contains(_DIGITS), confirm=has_card_number, mend=hide_card_numbers),
}


def find_texts(texts: pl.DataFrame, check: TextCheck, is_out: pl.Series | None = None) -> list[int]:
    """Positions in a frame with the column `content` whose text breaks a check, those left out that are out anyway."""
    wanted = check.gate if is_out is None else ~is_out & check.gate
    hits = texts.select(pl.arg_where(wanted)).to_series()
    if check.confirm is None:
        return hits.to_list()
    contents = texts["content"].gather(hits)
    return [hit for hit, text in zip(hits, contents, strict=True) if check.confirm(text)]
