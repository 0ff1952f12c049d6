"""URLs of sources: their parts, which prefix they lie below, and how they are shown without credentials."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from ft_pipeline.datasets.sources.source_file import shown
from ft_pipeline.errors import SourceError

SCHEMES = ("s3", "gs", "http", "https", "hf")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_HIDDEN = "***"
_SHORTEST_SECRET_CHARS = 4


@dataclass(frozen=True)
class Url:
    """Parts of a URL.

    Attributes:
        user: What stands before the host's @, usually name:password; not of an hf:// URL, whose @ names a revision.
        authority: Host and port, or the bucket.
        query: What follows the ?; empty for object stores, where ? is part of a pattern.
    """

    scheme: str
    user: str
    authority: str
    path: str
    query: str

    @property
    def is_http(self) -> bool:
        """Whether it is one of a web server."""
        return self.scheme in {"http", "https"}

    @property
    def plain(self) -> str:
        """The URL without user and query."""
        return f"{self.scheme}://{self.authority}" + (f"/{self.path}" if self.path else "")

    @property
    def shown(self) -> str:
        """The URL for people: without user, with the query's names and not its values."""
        names = "&".join(f"{part.partition('=')[0]}={_HIDDEN}" if "=" in part else _HIDDEN for part in self._parts)
        return shown(self.plain + (f"?{names}" if names else ""))

    @property
    def secrets(self) -> list[str]:
        """Parts that must not be shown, as written and decoded, the longest first."""
        values = [self.user, self.user.partition(":")[2], self.query]
        values += [part.partition("=")[2] or part for part in self._parts]
        both = {form for value in values for form in (value, unquote(value))}
        return sorted((value for value in both if len(value) >= _SHORTEST_SECRET_CHARS), key=len, reverse=True)

    @property
    def _parts(self) -> list[str]:
        return [part for part in self.query.split("&") if part]


def split_url(url: str) -> Url:
    """Take a URL apart; nothing is decoded."""
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    query = ""
    if scheme in {"http", "https"}:
        rest, _, query = rest.partition("#")[0].partition("?")
    elif "=" in rest.partition("?")[2]:  # an object store's ? is a wildcard; with a = it was meant as a query
        rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    user = ""
    if scheme != "hf":
        user, _, authority = authority.rpartition("@")
    if scheme in {"http", "https"}:
        authority = authority.lower().removesuffix(":443" if scheme == "https" else ":80")
    return Url(scheme, user, authority, path, query)


def check_url(url: str) -> Url:
    """Take a URL apart that a recipe names.

    Raises:
        SourceError: a scheme that is not known, a control character, a . or .. among its folders, or a user or query
            where the scheme has none.
    """
    parts = split_url(url)
    if parts.scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise SourceError(f"{parts.shown}: sources are files or URLs that begin with {known}")
    if not url.isprintable():
        raise SourceError(f"{parts.shown}: a URL must have no control characters. Write them as %0A and so on")
    if {".", ".."} & set(re.split(r"[/\\]", unquote(parts.path))):
        raise SourceError(f"{parts.shown}: a URL must have no . or .. among its folders. Write it without them")
    if not parts.authority:
        raise SourceError(f"{parts.shown}: names no host or bucket")
    if not parts.is_http and (parts.user or parts.query):
        raise SourceError(
            f"{parts.shown}: a {parts.scheme}:// URL has no user and no query. Credentials come from the environment"
        )
    return parts


def is_below(url: Url, prefix: str) -> bool:
    """Whether a URL lies below an allowed prefix, folder by folder: s3://bucket/a is no prefix of s3://bucket/ab."""
    root = split_url(prefix)
    if url.scheme != root.scheme or (root.authority and url.authority != root.authority):
        return False
    folders = [part for part in root.path.split("/") if part]
    return url.path.split("/")[: len(folders)] == folders


def require_below(url: Url, prefixes: tuple[str, ...], fix: str = "") -> None:
    """Raise unless the URL lies below one of the prefixes.

    Raises:
        SourceError: it does not.
    """
    if not any(is_below(url, prefix) for prefix in prefixes):
        allowed = ", ".join(split_url(prefix).shown for prefix in prefixes) or "no URL"
        add = fix or f"{url.scheme}://{url.authority}/"
        raise SourceError(f"{url.shown}: lies outside dataset.allowed_roots ({allowed}). Add e.g. {add}")


def without_secrets(text: str, url: Url) -> str:
    """A library's message without the URL's credentials, and without those of any other URL in it."""
    for secret in url.secrets:
        text = text.replace(secret, _HIDDEN)
    return shown(hide_urls(text))


def hide_urls(text: str) -> str:
    """A text in which each URL is shown without user and without the values of its query."""
    return _URL.sub(lambda found: split_url(found[0]).shown, text)
