"""Keys and tokens, which a model repeats to whoever asks: by Yelp's detect-secrets, and the patterns it lacks.

Its plugins for single formats only. Those that go by entropy or by a word like "password" nearby hit ordinary prose.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import polars as pl

_content = pl.col("content")
# Every format below has twenty such characters in a row, a PEM header or a URL.
SECRET_GATE = (
    _content.str.contains(r"[0-9A-Za-z_-]{20}|[0-9A-Za-z/+]{40}|(?:AKIA|ASIA)[0-9A-Z]{16}")
    | _content.str.contains("PRIVATE KEY", literal=True)
    | _content.str.contains("://", literal=True)
)
_PLUGINS = (
    ("aws", "AWSKeyDetector"),
    ("azure_storage_key", "AzureStorageKeyDetector"),
    ("basic_auth", "BasicAuthDetector"),
    ("discord", "DiscordBotTokenDetector"),
    ("github_token", "GitHubTokenDetector"),
    ("gitlab_token", "GitLabTokenDetector"),
    ("jwt", "JwtTokenDetector"),
    ("mailchimp", "MailchimpDetector"),
    ("openai", "OpenAIDetector"),
    ("private_key", "PrivateKeyDetector"),
    ("pypi_token", "PypiTokenDetector"),
    ("sendgrid", "SendGridDetector"),
    ("slack", "SlackDetector"),
    ("square_oauth", "SquareOAuthDetector"),
    ("stripe", "StripeDetector"),
    ("telegram_token", "TelegramBotTokenDetector"),
    ("twilio", "TwilioKeyDetector"),
)
_OWN = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:.*?-----END [A-Z ]*PRIVATE KEY-----)?"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS access key id
    r"|\bgithub_pat_[0-9A-Za-z_]{36,}"
    r"|\bgh[pousr]_[0-9A-Za-z]{36,}\b"
    r"|\bsk-(?:ant-|proj-)?[0-9A-Za-z_-]{32,}"  # OpenAI and Anthropic
    r"|\bxox[abprs]-[0-9A-Za-z-]{10,}"  # Slack
    r"|\bAIza[0-9A-Za-z_-]{35}"  # Google
    r"|\bhf_[0-9A-Za-z]{34}\b"  # Hugging Face
    r"|\bnpm_[0-9A-Za-z]{36}\b",
    re.DOTALL,
)


def has_secret(text: str) -> bool:
    """Whether a text holds a key or a token."""
    return _OWN.search(text) is not None or any(_find(text))


def hide_secrets(text: str) -> str:
    """The text with `[SECRET]` in the place of each."""
    text = _OWN.sub("[SECRET]", text)
    for secret in sorted(_find(text), key=len, reverse=True):
        text = text.replace(secret, "[SECRET]")
    return text


def _find(text: str) -> set[str]:
    return {secret for plugin in _plugins() for secret in plugin.analyze_string(text) if secret}


@cache
def _plugins() -> tuple[Any, ...]:
    from importlib import import_module

    return tuple(getattr(import_module(f"detect_secrets.plugins.{module}"), name)() for module, name in _PLUGINS)
