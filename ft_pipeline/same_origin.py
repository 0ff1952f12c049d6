"""Keeps other web pages away from a server on this machine.

Loopback keeps other machines out, not what a browser of this one has open: any page may send requests to
http://127.0.0.1:3000, and Dagster runs what it is sent, even by GET. A browser says on whose behalf it asks (`Origin`,
`Sec-Fetch-Site`), and under which name (`Host`): a name that somebody has pointed at 127.0.0.1 is not ours.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ft_pipeline.loopback import is_loopback

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
_HOST = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::[0-9]*)?")
_OWN_SITES = {"same-origin", "none"}
_NO_FRAME = (
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"frame-ancestors 'none'"),  # a second policy only adds to one of the page's own
)


class SameOrigin:
    """ASGI middleware that answers 403 to what another page asks.

    Args:
        app: What is kept.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in {"http", "websocket"}:
            return await self._app(scope, receive, send)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        fault = find_fault(scope["type"], scope["path"], headers, scope.get("method", "GET"))
        if fault is None:
            return await self._app(scope, receive, _unframed(send))
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008, "reason": fault})
        text = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 403, "headers": text})
        return await send({"type": "http.response.body", "body": f"{fault}\n".encode()})


def _unframed(send: Send) -> Send:
    """Forbid that what is sent is shown inside another page, which could have people click what they do not see."""

    async def send_unframed(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_NO_FRAME]
        await send(message)

    return send_unframed


def find_fault(kind: str, path: str, headers: MutableMapping[str, str], method: str = "GET") -> str | None:
    """Why a request is not answered; None: it comes from our own page, or from no browser."""
    host = headers.get("host", "")
    if not is_loopback(_without_port(host)):
        return "this server answers to 127.0.0.1 and localhost only; a reverse proxy must say so too (docs/security.md)"
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in {f"{scheme}://{host.lower()}" for scheme in ("http", "https")}:
        return "another web page asks, and only the page of this server may"
    site = headers.get("sec-fetch-site", "none")
    # A link from elsewhere opens the page in a window of its own; nothing else is asked by way of another site.
    is_opened = (
        (kind, method) == ("http", "GET")
        and (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
        and not path.endswith("/graphql")
    )
    if site not in _OWN_SITES and not is_opened:
        return "another web page asks, and only the page of this server may"
    return None


def _without_port(host: str) -> str:
    found = _HOST.fullmatch(host)
    return (found[1] or found[2]) if found else ""
