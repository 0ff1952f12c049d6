"""Who is told of what. The settings come from the environment, for a webhook's URL is a secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args
from urllib.parse import SplitResult, unquote, urlsplit

from ft_pipeline.alerts.alert import AlertKind
from ft_pipeline.errors import AlertError
from ft_pipeline.loopback import is_loopback

WEBHOOK, SMTP = "FT_PIPELINE_ALERT_WEBHOOK", "FT_PIPELINE_ALERT_SMTP"
SENDER, RECIPIENTS = "FT_PIPELINE_ALERT_EMAIL_FROM", "FT_PIPELINE_ALERT_EMAIL_TO"
WANTED, PLAIN_HTTP = "FT_PIPELINE_ALERT_ON", "FT_PIPELINE_ALERT_ALLOW_HTTP"
NAMES = (WEBHOOK, SMTP, SENDER, RECIPIENTS, WANTED, PLAIN_HTTP)
_FORM = "A URL has no blanks, which are %20, and is ASCII: a host of other letters begins with xn--"
_DEFAULT = "failure,promotion"
_SMTP_PORTS = {"smtps": 465, "smtp": 587}
# What a header and an SMTP server without extensions take. The domain may be an IP address in brackets.
_ADDRESS = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:.]+\])", re.ASCII)
# A longer word, or one with other characters, may be a secret that stands in the wrong variable.
_PLAIN_WORD = re.compile(r"[A-Za-z]{1,20}")


@dataclass(frozen=True)
class MailServer:
    """An SMTP server; `smtps` is TLS from the first byte, `smtp` turns to it (STARTTLS) wherever it is not loopback."""

    host: str
    port: int
    is_tls: bool
    user: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True)
class AlertSettings:
    """What the environment says.

    Attributes:
        webhook: A URL that takes JSON; empty: none.
        mail_server: None: no e-mail.
        sender: The address that e-mail comes from.
        recipients: The addresses that it goes to.
        kinds: What people want to be told of.
    """

    kinds: frozenset[AlertKind]
    webhook: str = field(default="", repr=False)
    mail_server: MailServer | None = None
    sender: str = ""
    recipients: tuple[str, ...] = ()

    @property
    def has_receiver(self) -> bool:
        """Whether there is somebody to tell."""
        return bool(self.webhook or self.mail_server)


def read_settings(environment: Mapping[str, str]) -> AlertSettings:
    """The settings of an environment; values that may be secret are in no message.

    Raises:
        AlertError: they are wrong; all faults are named.
    """
    values = {name: environment.get(name, "").strip() for name in NAMES}
    faults: list[str] = []
    kinds = _read_kinds(values[WANTED] or _DEFAULT, faults)
    if values[WEBHOOK]:
        _check_webhook(values[WEBHOOK], values[PLAIN_HTTP] == "1", faults)
    server = _read_server(values[SMTP], faults) if values[SMTP] else None
    recipients = tuple(part.strip() for part in values[RECIPIENTS].split(",") if part.strip())
    if values[SMTP]:
        _check_addresses(values[SENDER], recipients, faults)
    if faults:
        raise AlertError("\n".join(["the settings of alerts are wrong:", *faults]))
    return AlertSettings(kinds, values[WEBHOOK], server, values[SENDER], recipients)


def _read_kinds(text: str, faults: list[str]) -> frozenset[AlertKind]:
    named = {part.strip() for part in text.split(",") if part.strip()}
    known: frozenset[AlertKind] = frozenset(get_args(AlertKind))
    if unknown := sorted(named - known):
        got = [repr(name) if _PLAIN_WORD.fullmatch(name) else "what is no plain word" for name in unknown]
        faults.append(f"{WANTED}: must name some of {', '.join(sorted(known))}, got {', '.join(got)}")
    return frozenset(kind for kind in known if kind in named)


def _check_webhook(url: str, allows_http: bool, faults: list[str]) -> None:
    parts = _split(url)
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        faults.append(f"{WEBHOOK}: must be a URL that begins with https://; what is set is none. {_FORM}")
    elif "@" in parts.netloc:
        faults.append(
            f"{WEBHOOK}: must have no user or password before its host, for none is sent. Use an address with a token"
        )
    elif parts.scheme == "http" and not is_loopback(parts.hostname) and not allows_http:
        faults.append(
            f"{WEBHOOK}: http:// sends alerts readable over the network to {parts.hostname}. Use https://, or set "
            f"{PLAIN_HTTP}=1"
        )


def _read_server(url: str, faults: list[str]) -> MailServer | None:
    parts = _split(url)
    if parts is None or parts.scheme not in _SMTP_PORTS or not parts.hostname:
        faults.append(f"{SMTP}: must read smtps://user:password@host:465 or smtp://user:password@host:587. {_FORM}")
        return None
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not (user + password).isascii():
        faults.append(f"{SMTP}: user and password must be ASCII, for SMTP takes no other. Choose others at the server")
    port = parts.port or _SMTP_PORTS[parts.scheme]
    return MailServer(parts.hostname, port, parts.scheme == "smtps", user, password)


def _check_addresses(sender: str, recipients: tuple[str, ...], faults: list[str]) -> None:
    for name, addresses in ((SENDER, (sender,)), (RECIPIENTS, recipients or ("",))):
        for number, address in enumerate(addresses, start=1):
            if not _ADDRESS.fullmatch(address):
                which = f"number {number} of {len(addresses)}" if len(addresses) > 1 else "what is set"
                faults.append(f"{name}: must be an address in ASCII such as ops@example.org; {which} is none")


def _split(url: str) -> SplitResult | None:
    """The parts of a URL that can be sent as it is."""
    if not url.isascii() or not url.isprintable() or " " in url:
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts
