"""Keys and tokens, which a model repeats to whoever asks: by Yelp's detect-secrets, and the patterns it lacks.

Its plugins for single formats only. Those that go by entropy or by a word like "password" nearby hit ordinary prose.
They tell what a secret is and not where it stands, so their patterns are searched here. That of OpenAI's keys is left
out: it takes minutes for a text of many "sk-".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

# Every format below has so many characters in a row, or one of these words.
SECRET_GATES = ("[0-9A-Za-z_-]{20}|[0-9A-Za-z/+]{40}", "PRIVATE KEY|PuTTY-User-Key-File|://|xox|eyJ")
# Of a plugin's match the group that is the secret, and 0 for all of it.
_PLUGINS = (
    ("aws", "AWSKeyDetector", 1),
    ("azure_storage_key", "AzureStorageKeyDetector", 0),
    ("basic_auth", "BasicAuthDetector", 1),
    ("discord", "DiscordBotTokenDetector", 0),
    ("github_token", "GitHubTokenDetector", 0),
    ("gitlab_token", "GitLabTokenDetector", 0),
    ("mailchimp", "MailchimpDetector", 0),
    ("pypi_token", "PypiTokenDetector", 0),
    ("sendgrid", "SendGridDetector", 0),
    ("slack", "SlackDetector", 0),
    ("square_oauth", "SquareOAuthDetector", 0),
    ("stripe", "StripeDetector", 0),
    ("telegram_token", "TelegramBotTokenDetector", 0),
    ("twilio", "TwilioKeyDetector", 0),
)
_KEY_NAME = r"(?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?"
_OWN = re.compile(
    rf"-{{4,5}} ?BEGIN {_KEY_NAME} ?-{{4,5}}(?:[^-]|-(?!---)){{0,20000}}?-{{4,5}} ?END {_KEY_NAME} ?-{{4,5}}"
    r"|\b(?:(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS access key id
    r"|github_pat_[0-9A-Za-z_]{36,}"
    r"|gh[pousr]_[0-9A-Za-z]{36,}"
    r"|sk-ant-[0-9A-Za-z_-]{20,}"  # Anthropic
    # OpenAI and those who follow it. Class names of style sheets begin alike, but have hyphens and no capitals.
    r"|sk-(?:or-v1-)?(?=[A-Za-z]{0,60}[0-9])[0-9A-Za-z]{32,}"
    r"|sk-(?=[A-Za-z_-]{0,60}[0-9])(?=[0-9a-z_-]{0,60}[A-Z])[0-9A-Za-z_-]{32,}"
    r"|xox[abeoprs]-(?=[A-Za-z-]{0,40}[0-9])[0-9A-Za-z-]{10,}"  # Slack
    r"|AIza[0-9A-Za-z_-]{35}"  # Google
    r"|ya29\.[0-9A-Za-z_-]{20,}"
    r"|gsk_[0-9A-Za-z]{40,}"  # Groq
    r"|r8_[0-9A-Za-z]{37,}"  # Replicate
    r"|do[opr]_v1_[0-9a-f]{64}"  # DigitalOcean
    r"|glsa_[0-9A-Za-z]{32}(?:_[0-9A-Fa-f]{8})?"  # Grafana
    r"|hf_[0-9A-Za-z]{30,}"  # Hugging Face
    r"|npm_[0-9A-Za-z]{36})",
    re.DOTALL,
)
# A key whose END is missing has no end to hide it up to; nor has PuTTY's.
_KEY_HEADER = re.compile(rf"BEGIN {_KEY_NAME}|PuTTY-User-Key-File-[0-9]")
_JWT = re.compile(r"(?<![0-9A-Za-z_=-])eyJ[0-9A-Za-z_=-]{1,8000}\.[0-9A-Za-z_=-]+(?:\.[0-9A-Za-z_.+/=-]*)?")
# AWS's secret access key has no mark of its own: capitals, small letters and digits tell it from a hash.
_AWS_SECRET = re.compile(
    r"(?<![0-9A-Za-z/+])(?=[0-9A-Z/+]*[a-z])(?=[0-9a-z/+]*[A-Z])(?=[A-Za-z/+]*[0-9])[0-9A-Za-z/+]{40}(?![0-9A-Za-z/+=])"
)
_AWS_WORD = re.compile("aws|secret", re.IGNORECASE)
_NEAR_CHARS = 60


def has_secret(text: str) -> bool:
    """Whether a text holds a key or a token."""
    return _KEY_HEADER.search(text) is not None or next(_find(text), None) is not None


def hide_secrets(text: str) -> str:
    """The text with `[SECRET]` in the place of each whose end is known."""
    parts, end = [], 0
    for start, stop in sorted(_find(text)):
        if start >= end:
            parts += [text[end:start], "[SECRET]"]
        end = max(end, stop)
    return "".join([*parts, text[end:]])


def redact(text: str) -> str:
    """The text as it may be shown: with `[SECRET]` for each, and nothing after a key that has no end."""
    hidden = hide_secrets(text)
    header = _KEY_HEADER.search(hidden)
    return hidden if header is None else f"{hidden[: header.start()]}[SECRET]"


def _find(text: str) -> Iterator[tuple[int, int]]:
    """Where secrets stand, in no order."""
    for match in _OWN.finditer(text):
        yield match.span()
    for pattern, group in _patterns():
        for match in pattern.finditer(text):
            yield match.span(min(group, pattern.groups))
    for match in _JWT.finditer(text):
        if _is_jwt(match[0]):
            yield match.span()
    for match in _AWS_SECRET.finditer(text):
        before, after = text[max(match.start() - _NEAR_CHARS, 0) : match.start()], text[match.end() :][:_NEAR_CHARS]
        if _AWS_WORD.search(before) or _AWS_WORD.search(after):
            yield match.span()


def _is_jwt(token: str) -> bool:
    """Whether the header and the claims of a token are JSON."""
    from detect_secrets.plugins.jwt import JwtTokenDetector

    return bool(JwtTokenDetector.is_formally_valid(".".join(token.split(".")[:2])))


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], int], ...]:
    from importlib import import_module

    found: list[tuple[re.Pattern[str], int]] = []
    for module, name, group in _PLUGINS:
        plugin: Any = getattr(import_module(f"detect_secrets.plugins.{module}"), name)
        found += [(pattern, group) for pattern in plugin.denylist]
    return tuple(found)
