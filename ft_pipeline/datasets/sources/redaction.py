"""What a message of a library or a server may show: no key, no user of a URL, no value that is named like a secret.

More is taken out than of a row (`datasets/checks/secrets.py`): there a URL's query is part of what somebody wrote, and
here a word too few does no harm.
"""

from __future__ import annotations

import re

from ft_pipeline.datasets.checks.secrets import redact
from ft_pipeline.datasets.sources.source_file import shown
from ft_pipeline.datasets.sources.urls import HIDDEN, SCHEMES, Url, split_url

# A URL of sources that lacks a slash is one too.
_URL = re.compile(rf"(?:[A-Za-z][A-Za-z0-9+.-]{{0,30}}://|\b(?:{'|'.join(SCHEMES)}):/)[^\s'\"<>]+", re.IGNORECASE)
# `token=…`, `"api_key": "…"`, `Authorization: Bearer …`. What tokenizers call a token is none.
_FIELD = re.compile(
    r"""(?<![\w.-])(?![\w.-]*(?:bos|eos|pad|unk|sep|cls|mask)_token\b)
    ([\w.-]*?(?:token|secret|password|passwd|passphrase|pwd|signature|credentials?|authorization|sess(?:ion)?[_-]?id
        |(?:api|access|account|private|secret|signing)[_-]?key(?:[_-]?id)?)
    (?:\\?["'])?[ \t]{0,3}(?:=>?|:)[ \t]{0,3})
    (?:b?(\\?["']).*?(?:\2|$) | (?:(?:basic|bearer|token|digest|negotiate|apikey)[ \t]+)?[^\s"'&;,)}<>]+)""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_COOKIE = re.compile(r"""(\bcookies?(?:\\?["'])?[ \t]{0,3}[=:]).+""", re.IGNORECASE)
_BEARER = re.compile(r"\b(bearer[ \t]+)[\w.~+/=-]{16,}", re.IGNORECASE)


def hide_credentials(text: str) -> str:
    """A message without keys, users and queries of URLs, and values of fields that are named like secrets."""
    text = hide_urls(redact(text))
    for pattern in (_COOKIE, _FIELD, _BEARER):
        text = pattern.sub(rf"\g<1>{HIDDEN}", text)
    return text


def hide_urls(text: str) -> str:
    """A text in which each URL is shown without user and without the values of its query."""
    return _URL.sub(lambda found: split_url(found[0]).shown, text)


def without_secrets(text: str, url: Url) -> str:
    """A library's message on one line, without the credentials of the URL that it is about, and without all others."""
    for secret in url.secrets:
        text = text.replace(secret, HIDDEN)
    return shown(hide_credentials(text))
