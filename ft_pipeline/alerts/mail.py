"""An alert as e-mail, over TLS."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

from ft_pipeline.alerts.alert import Alert
from ft_pipeline.alerts.delivery import TIMEOUT_SECONDS, TemporaryFault
from ft_pipeline.alerts.settings import MailServer
from ft_pipeline.errors import AlertError
from ft_pipeline.loopback import is_loopback

_SUBJECT_CHARS = 200


class MailReceiver:
    """Addresses that are told by a mail server.

    Args:
        server: Where the mail is handed in.
        sender: The address that it comes from.
        recipients: The addresses that it goes to.
    """

    name = "e-mail"

    def __init__(self, server: MailServer, sender: str, recipients: tuple[str, ...]) -> None:
        self._server = server
        self._sender = sender
        self._recipients = recipients

    def send(self, alert: Alert) -> str:
        """Hand it in once.

        Returns:
            The recipients that the server refuses, while it takes the mail for others.

        Raises:
            TemporaryFault: the server cannot be reached, or is busy for now.
            AlertError: it refuses the password, the sender or all recipients, or offers no TLS; or what is to be handed
                in cannot be written as SMTP.
        """
        place = f"the mail server {self._server.host}:{self._server.port}"
        try:
            message = self._write(alert)
            with _leaving(self._connect()) as server:
                if self._server.user:
                    server.login(self._server.user, self._server.password)
                refused = server.send_message(message)
        except smtplib.SMTPResponseException as err:
            kind = TemporaryFault if 400 <= err.smtp_code < 500 else AlertError
            raise kind(f"{place} must take an alert; it answered {err.smtp_code}") from None
        except smtplib.SMTPRecipientsRefused as err:
            kind = TemporaryFault if any(400 <= code < 500 for code, _ in err.recipients.values()) else AlertError
            raise kind(f"{place} must take the recipients; it refuses {', '.join(err.recipients)}") from None
        except smtplib.SMTPNotSupportedError:
            raise AlertError(f"{place} must offer TLS and a login. Use smtps:// if it has it elsewhere") from None
        except (OSError, smtplib.SMTPException) as err:
            shown = getattr(err, "strerror", None) or type(err).__name__
            raise TemporaryFault(f"{place} must be reachable: {shown}") from None
        except ValueError as err:
            shown = type(err).__name__
            raise AlertError(f"{place} must get a host, password and text that SMTP can carry: {shown}") from None
        return f"{place} refuses {', '.join(refused)}" if refused else ""

    def _write(self, alert: Alert) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = " ".join(alert.title.split())[:_SUBJECT_CHARS]  # a line break would begin another header
        message["From"], message["To"] = self._sender, ", ".join(self._recipients)
        message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain="ft-pipeline.invalid")
        message.set_content(alert.text)
        return message

    def _connect(self) -> smtplib.SMTP:
        server, context = self._server, ssl.create_default_context()
        if server.is_tls:
            return smtplib.SMTP_SSL(server.host, server.port, timeout=TIMEOUT_SECONDS, context=context)
        connection = smtplib.SMTP(server.host, server.port, timeout=TIMEOUT_SECONDS)
        if not is_loopback(server.host):
            try:
                connection.starttls(context=context)
            except BaseException:
                connection.close()
                raise
        return connection


@contextmanager
def _leaving(server: smtplib.SMTP) -> Iterator[smtplib.SMTP]:
    """Leave a server without asking what it says to that: a mail that it has taken stays taken."""
    try:
        yield server
    finally:
        with suppress(OSError, smtplib.SMTPException):
            server.putcmd("quit")
        server.close()
