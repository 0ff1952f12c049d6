"""Texts made to be slow: what a check costs must grow with their length, not with its square."""

from __future__ import annotations

import time

import pytest

from ft_pipeline.datasets.checks.personal import has_card_number, hide_card_numbers, hide_emails
from ft_pipeline.datasets.checks.secrets import has_secret, hide_secrets

_UNITS = (
    "1 0 ",
    "1234 ",
    "4111 1111 1111 1111 ",
    "sk-",
    "a@a.a.",
    "a.",
    "%20",
    "eyJ",
    "eyJ.",
    "-----BEGIN PRIVATE KEY-----",
    "A1a/",
)


@pytest.mark.parametrize("unit", _UNITS)
def test_four_times_the_text_takes_no_sixteen_times_as_long(unit: str) -> None:
    def seconds(chars: int) -> float:
        text = unit * (chars // len(unit)) + " joe@example.org"
        started = time.process_time()
        for check in (has_card_number, hide_card_numbers, hide_emails, has_secret, hide_secrets):
            check(text)
        return time.process_time() - started

    seconds(1000)  # imports
    assert seconds(80_000) < 10 * seconds(20_000) + 0.2


def test_an_address_at_the_end_of_a_long_run_is_hidden() -> None:
    assert "joe@example.org" not in hide_emails("%20" * 10_000 + "joe@example.org")
    assert hide_emails("write to joe@example.org, or ann@b.example.com.") == "write to [EMAIL], or [EMAIL]."
