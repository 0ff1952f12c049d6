"""What can go wrong on the way to a file that lies elsewhere, and which of it is worth another try."""

from __future__ import annotations

import errno
import logging
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from ft_pipeline.datasets.sources.redaction import without_secrets
from ft_pipeline.datasets.sources.urls import Url
from ft_pipeline.errors import DiskSpaceError, SourceError

PAUSES_SECONDS = (0.5, 2.0, 5.0)

_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)

# The libraries below are loaded only by the file system that a URL needs, so their errors are looked up by name.
_NETWORK = (
    ("aiohttp", "ClientPayloadError"),
    ("aiohttp", "ClientConnectionError"),
    ("botocore.exceptions", "HTTPClientError"),
    ("botocore.exceptions", "ConnectionError"),
    ("httpx", "TransportError"),
    ("requests", "ConnectionError"),
)
_OTHERS = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("gcsfs.retry", "HttpError"),
    ("httpx", "HTTPError"),
    ("requests", "RequestException"),
)
FULL_DISK = {errno.ENOSPC, errno.EDQUOT}
_OFFLINE = (("huggingface_hub.errors", "OfflineModeIsEnabled"),)
_TRANSIENT_ERRNOS = {errno.EBUSY, errno.EIO, errno.EAGAIN, errno.ENETUNREACH, errno.EHOSTUNREACH}
_TRANSIENT_STATUS = {408, 425, 429}


class IncompleteFile(OSError):
    """Fewer or more bytes came than the server has announced."""


def with_retries(url: Url, act: Callable[[], _Result]) -> _Result:
    """Do something with a remote file system, again after a pause where the network failed.

    Raises:
        SourceError: it failed for good; the message has no credentials, and no cause that might show them.
        DiskSpaceError: this machine's disk is full.
    """
    pauses = iter(PAUSES_SECONDS)
    while True:
        try:
            return act()
        except remote_errors() as err:
            raise_if_full(err, url)
            told = _tell(err, url)
            pause_seconds = next(pauses, None)
            if pause_seconds is None or not _is_transient(err):
                # `from None`: the cause's text may hold the URL's credentials, and tracebacks are logged.
                raise SourceError(f"{url.shown}: cannot be fetched: {told}") from None
        _log.warning("%s: %s. Trying again in %g s", url.shown, told, pause_seconds)
        time.sleep(pause_seconds)


def remote_errors() -> tuple[type[BaseException], ...]:
    """The errors that a remote file system may raise, of those libraries that are loaded."""
    return (OSError, ValueError, NotImplementedError, RuntimeError, *_loaded(_OTHERS))


def raise_if_full(err: BaseException, url: Url) -> None:
    """Raise `DiskSpaceError` if the error, or its cause, says that this machine's disk is full."""
    if any(isinstance(each, OSError) and each.errno in FULL_DISK for each in (err, err.__cause__)):
        raise DiskSpaceError(f"{url.shown}: the disk is full. Free some, or set FT_PIPELINE_ARTIFACTS to another disk")


def _loaded(names: tuple[tuple[str, str], ...]) -> tuple[type[BaseException], ...]:
    found = (getattr(sys.modules.get(module), name, None) for module, name in names)
    return tuple(error for error in found if isinstance(error, type))


def _is_transient(err: BaseException) -> bool:
    status = _status(err)
    if status is not None:
        return status in _TRANSIENT_STATUS or status >= 500
    if isinstance(err, FileNotFoundError):  # fsspec's word for any failure; the cause tells which
        return err.__cause__ is not None and _is_transient(err.__cause__)
    if isinstance(err, _loaded(_OFFLINE)):
        return False
    if isinstance(err, (IncompleteFile, TimeoutError, ConnectionError, *_loaded(_NETWORK))):
        return True
    return isinstance(err, OSError) and err.errno in _TRANSIENT_ERRNOS


def _status(err: BaseException) -> int | None:
    for holder, name in ((err, "status"), (getattr(err, "response", None), "status_code"), (err, "code")):
        status = getattr(holder, name, None)
        if isinstance(status, int):
            return status
    return None


def _tell(err: BaseException, url: Url) -> str:
    cause = err.__cause__
    if isinstance(err, FileNotFoundError) and cause is not None and not isinstance(cause, FileNotFoundError):
        err = cause
    kind = "not found" if isinstance(err, FileNotFoundError) else type(err).__name__
    return f"{kind}: {without_secrets(str(err), url)}".removesuffix(": ")
