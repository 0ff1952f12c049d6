"""An alert as JSON by HTTP POST: `text`, which Slack, Mattermost, Rocket.Chat and Zulip show, and its parts.

Slack's escapes: https://docs.slack.dev/messaging/formatting-message-text
"""

from __future__ import annotations

import html
import http.client
import json
import re
import urllib.error
import urllib.request
from email.message import Message
from typing import IO
from urllib.parse import urlsplit

from ft_pipeline.alerts.alert import Alert
from ft_pipeline.alerts.delivery import TIMEOUT_SECONDS, TemporaryFault
from ft_pipeline.errors import AlertError
from ft_pipeline.loopback import is_loopback

_BUSY = {408, 425, 429}
# What mentions people or a channel, and the middle of a link in Markdown: a word joiner, which is not seen, parts it.
_MENTION_OR_LINK = re.compile(r"@|\](?=[(\[:])")


class WebhookReceiver:
    """A URL that is told. It is a secret: messages name its host alone.

    Args:
        url: http or https.
    """

    name = "webhook"

    def __init__(self, url: str) -> None:
        self._url = url
        self._host = urlsplit(url).hostname or "?"
        # Another place that the server names must not get what is meant for this one.
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if is_loopback(self._host):  # a proxy of the environment is another place too
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def send(self, alert: Alert) -> str:
        """Tell it once.

        Returns:
            Nothing: it is one.

        Raises:
            TemporaryFault: it cannot be reached, or is busy or broken for now.
            AlertError: it refuses.
        """
        body = {
            "text": _escape(alert.text),
            "title": alert.title,
            "message": "\n".join(alert.lines),
            "kind": alert.kind,
        }
        headers = {"Content-Type": "application/json", "User-Agent": "ft_pipeline"}
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers, method="POST")  # noqa: S310 - http(s), by the settings
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS):
                return ""
        except urllib.error.HTTPError as err:
            err.close()
            kind = TemporaryFault if err.code in _BUSY or err.code >= 500 else AlertError
            raise kind(f"the webhook at {self._host} must take an alert; it answered {err.code}") from None
        except (OSError, ValueError, http.client.HTTPException) as err:
            # `from None`, and no words of the library: they may hold the URL.
            reason = getattr(err, "reason", err)
            shown = getattr(reason, "strerror", None) or type(reason).__name__
            raise TemporaryFault(f"the webhook at {self._host} must be reachable: {shown}") from None


def _escape(text: str) -> str:
    """The text as chats take it for text: it pings nobody, and no link leads elsewhere than it says."""
    return _MENTION_OR_LINK.sub("\\g<0>\N{WORD JOINER}", html.escape(text, quote=False))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """Follow nothing: the answer becomes an HTTPError with the redirect's code."""
