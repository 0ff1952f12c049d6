"""Sources on object stores and web servers, through fsspec."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ft_pipeline.datasets.sources.copies import (
    MAX_FILE_BYTES,
    Copy,
    HashOf,
    draft,
    find_copy,
    keep_copy,
    open_folder,
    require_room,
)
from ft_pipeline.datasets.sources.network import IncompleteFile, with_retries
from ft_pipeline.datasets.sources.suffixes import find_suffix
from ft_pipeline.datasets.sources.urls import Url, check_url, require_below, split_url
from ft_pipeline.errors import SourceError

_CHUNK_BYTES = 4 << 20
_MAX_FOLDERS_DEEP = 16
_EXTRAS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs")}
_STATE = ("ETag", "etag", "LastModified", "Last-Modified", "mtime", "updated", "Content-MD5", "Digest")


@dataclass(frozen=True)
class RemoteFile:
    """A file elsewhere.

    Attributes:
        location: Its URL, as the file system wants it.
        allowed: Prefixes that it must lie below, also where its server sends on to another.
        is_pinned: The URL names a commit, so what lies there never changes.
    """

    filesystem: Any
    location: str
    url: Url
    allowed: tuple[str, ...]
    is_pinned: bool = False

    def fetch(self, downloads: Path, hash_of: HashOf) -> Copy:
        """The copy of the file as it is now; it is fetched only if the server's state of it has changed.

        Raises:
            SourceError: it cannot be fetched, or is too large.
            DiskSpaceError: there is no room for it.
        """
        with open_folder(downloads, self.location) as folder:
            return with_retries(self.url, lambda: self._fetch(folder, hash_of))

    def _fetch(self, folder: Path, hash_of: HashOf) -> Copy:
        suffix = find_suffix(self.url.path) or ""
        key: str | None = "pinned"
        if self.is_pinned and (copy := find_copy(folder, "pinned", suffix, hash_of)):
            return copy
        self.filesystem.invalidate_cache()
        info = self.filesystem.info(self.location)
        self._check_landing(info.get("url"))
        if not self.is_pinned:
            key = _state_key(info)
            if key and (copy := find_copy(folder, key, suffix, hash_of)):
                return copy
        with draft(folder) as path:
            sha256 = self._download(path, info.get("size"))
            etag = info.get("ETag") or info.get("etag")
            return keep_copy(path, key or f"sha256-{sha256[:32]}", suffix, {"etag": etag}, sha256)

    def _download(self, path: Path, size_bytes: int | None) -> str:
        require_room(path.parent, size_bytes or 0, self.url.shown)
        options = {"block_size": 0} if self.url.scheme in {"http", "https", "hf"} else {}
        with self.filesystem.open(self.location, "rb", **options) as remote, path.open("wb") as local:
            response = getattr(remote, "r", None)
            self._check_landing(str(response.url) if response is not None else None)
            sha256, got_bytes = _copy(remote, local, self.url)
        if size_bytes is not None and got_bytes != size_bytes:
            raise IncompleteFile(f"{got_bytes} bytes came, the server has announced {size_bytes}")
        return sha256

    def _check_landing(self, url: str | None) -> None:
        """A web server may send on to another URL: that must be allowed too."""
        if url and self.url.is_http:
            landing = check_url(url)
            if landing.plain != self.url.plain:
                require_below(landing, self.allowed)


def expand_remote(location: str, allowed: tuple[str, ...]) -> list[RemoteFile]:
    """All files that a URL, a folder's URL or a pattern stands for, sorted.

    Raises:
        SourceError: it is not allowed, there is nothing, it cannot be listed, or a package is missing.
    """
    url = check_url(location)
    require_below(url, allowed)
    filesystem = open_filesystem(url)
    found = with_retries(url, lambda: list_files(filesystem, location, url))
    files = []
    for name in found:
        parts = check_url(name)
        require_below(parts, allowed)
        files.append(RemoteFile(filesystem, name, parts, allowed))
    return files


def open_filesystem(url: Url) -> Any:
    """The fsspec file system of a URL; it takes its credentials from the environment.

    Raises:
        SourceError: its package is not installed.
    """
    import fsspec

    options: dict[str, Any] = {}
    if url.is_http:
        import aiohttp

        # fsspec's own limit of five minutes for a whole file is too short; `encoded` keeps a signed URL as it is.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
        options = {
            "encoded": "%" in url.path + url.query,
            "client_kwargs": {"timeout": timeout, "trust_env": True, "auto_decompress": False},
            "headers": {"Accept-Encoding": "identity"},
        }
    try:
        return fsspec.filesystem(url.scheme, **options)
    except ImportError as err:
        package, extra = _EXTRAS.get(url.scheme, (url.scheme, url.scheme))
        raise SourceError(
            f"{url.shown}: {url.scheme}:// needs the package {package}. Run pip install 'ft-pipeline[{extra}]'"
        ) from err


def list_files(filesystem: Any, location: str, url: Url) -> list[str]:
    """URLs of the files that a location stands for; in a folder those with a known suffix, hidden ones left out.

    Raises:
        SourceError: there is none.
    """
    filesystem.invalidate_cache()
    marks = "*[" if url.is_http else "*?["
    if any(mark in url.path for mark in marks):
        if url.query:
            raise SourceError(f"{url.shown}: a pattern has no query. Name the file, or leave the query out")
        found = filesystem.glob(location, detail=True)
        names = [_with_scheme(filesystem, name) for name, info in found.items() if info["type"] == "file"]
        names = [name for name in names if not _is_hidden(name)]
    elif _is_folder(filesystem, location, url):
        depth = _MAX_FOLDERS_DEEP if url.is_http else None
        names = [_with_scheme(filesystem, name) for name in filesystem.find(location, maxdepth=depth)]
        inside = url.plain.rstrip("/")
        names = [n for n in names if find_suffix(n) and not _is_hidden(split_url(n).plain.removeprefix(inside))]
    else:
        return [location]
    if url.is_http:
        names = [name for name in names if "?" not in name]  # a listing's links to itself in another order
    if not names:
        raise SourceError(f"{url.shown}: matches no file. Put one there or fix the URL")
    return sorted(set(names))


def _is_folder(filesystem: Any, location: str, url: Url) -> bool:
    if url.is_http:
        return url.path == "" or url.path.endswith("/")
    return bool(filesystem.info(location)["type"] == "directory")


def _with_scheme(filesystem: Any, name: str) -> str:
    return str(name if "://" in name else filesystem.unstrip_protocol(name))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _copy(remote: BinaryIO, local: BinaryIO, url: Url) -> tuple[str, int]:
    digest = hashlib.sha256()
    got_bytes = 0
    while chunk := remote.read(_CHUNK_BYTES):
        got_bytes += len(chunk)
        if got_bytes > MAX_FILE_BYTES:
            raise SourceError(
                f"{url.shown}: a source has at most {MAX_FILE_BYTES / 2**30:.2f} GiB, more came. Split it"
            )
        digest.update(chunk)
        local.write(chunk)
    return digest.hexdigest(), got_bytes


def _state_key(info: Mapping[str, Any]) -> str | None:
    """Names the state of a file on its server; None if the server tells nothing that changes with the file."""
    state = [f"{name}={info[name]}" for name in _STATE if info.get(name)]
    if not state:
        return None
    return hashlib.sha256("\n".join([*state, f"size={info.get('size')}"]).encode()).hexdigest()[:32]
