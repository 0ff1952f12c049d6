"""URLs of sources: their parts, which prefix they lie below, and how they are shown without credentials."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from ft_pipeline.datasets.sources.source_file import shown
from ft_pipeline.errors import SourceError

SCHEMES = ("s3", "gs", "http", "https", "hf")
_WEB = {"http", "https"}
HIDDEN = "***"
_SHORTEST_SECRET_CHARS = 4
_HALF_URL = re.compile(rf"(?:{'|'.join(SCHEMES)}):/?(?!/)", re.IGNORECASE)
_AFTER_HOST = re.compile("[/?#]")
# A web server, perhaps with its port. Another colon before the first slash parts a user from a password.
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^:@\[\]]+)(?::[0-9]{1,5})?")
_SECRET_PARAMETER = re.compile(r"(;[\w.-]*(?:sess|sid|token|secret|key|sig|pass|auth)[\w.-]*=)[^/;]+", re.IGNORECASE)


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
        return self.scheme in _WEB

    @property
    def plain(self) -> str:
        """The URL without user and query."""
        return f"{self.scheme}://{self.authority}" + (f"/{self.path}" if self.path else "")

    @property
    def shown(self) -> str:
        """The URL for people: without user, and without the values of its query and of a `;token=` in its path."""
        names = "&".join(f"{part.partition('=')[0]}={HIDDEN}" if "=" in part else HIDDEN for part in self._parts)
        plain = _SECRET_PARAMETER.sub(rf"\g<1>{HIDDEN}", self.plain)
        return shown(plain + (f"?{names}" if names else ""))

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


def is_url(path: str) -> bool:
    """Whether a path is meant for a URL; one that lacks slashes behind its scheme is."""
    return "://" in path or is_half_url(path)


def is_half_url(path: str) -> bool:
    """Whether a path begins with the scheme of a URL and lacks its slashes."""
    return _HALF_URL.match(path) is not None


def split_url(url: str) -> Url:
    """Take a URL apart; nothing is decoded.

    The user ends at the last @ that may end it: a password may hold a /, ? or # that should have been escaped, as keys
    of AWS do. Such a URL is for showing only: `check_url` refuses it.
    """
    begin = _HALF_URL.match(url)
    scheme, _, rest = (url[: begin.end()], "", url[begin.end() :]) if begin else url.partition("://")
    scheme = scheme.rstrip(":/").lower()
    user, rest = _split_user(scheme, rest)
    query = ""
    if scheme in _WEB:
        rest, _, query = rest.partition("#")[0].partition("?")
    elif "=" in rest.partition("?")[2]:  # an object store's ? is a wildcard; with a = it was meant as a query
        rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    if scheme in _WEB:
        authority = authority.lower().removesuffix(":443" if scheme == "https" else ":80")
    return Url(scheme, user, authority, path, query)


def _split_user(scheme: str, rest: str) -> tuple[str, str]:
    """What stands before the @ of a host, and what stands behind it."""
    head, first = (_AFTER_HOST.split(text, maxsplit=1)[0] for text in (rest, rest.lstrip("/")))
    if ":" in first and not (scheme in _WEB and _HOST.fullmatch(first)):
        head = rest
    elif scheme == "hf":
        head = ""
    user, _, _ = head.rpartition("@")
    return user, rest[head.rfind("@") + 1 :]


def check_url(url: str) -> Url:
    """Take a URL apart that a recipe names.

    Raises:
        SourceError: a scheme that is not known or lacks slashes, a control character, a . or .. among its folders, a
            user or query where the scheme has none, or a password that is not escaped.
    """
    parts = split_url(url)
    if is_half_url(url):
        raise SourceError(f"{parts.shown}: a URL must have two slashes behind {parts.scheme}:. Write them")
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
    if _AFTER_HOST.search(parts.user):
        raise SourceError(
            f"{parts.shown}: before the @ of a user and password a / must be written as %2F, a ? as %3F, a # as %23. "
            "If that @ is part of the path or query, write it as %40"
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
