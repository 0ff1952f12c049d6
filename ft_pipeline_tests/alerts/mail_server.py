"""A mail server on this machine: as much of SMTP as a client needs to hand a message in."""

from __future__ import annotations

import base64
import socketserver
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

from ft_pipeline_tests.loopback_server import serving

_LOGIN = base64.b64encode(b"\0ops\0p@ss word").decode()


class MailServer(socketserver.ThreadingTCPServer):
    """Takes the user `ops` with the password `p@ss word`, and keeps what is handed in.

    Attributes:
        taken: Messages with the recipients that were not refused.
        refused: Recipients that are not taken.
        busy: Greet so many clients with 421 first.
        goodbye: The answer to QUIT.
    """

    daemon_threads = True

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.taken: list[tuple[EmailMessage, list[str]]] = []
        self.refused: set[str] = set()
        self.busy = 0
        self.goodbye = "221 bye"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not trust the certificate goes away; nothing is printed."""


class _Session(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        if self.server.busy:
            self.server.busy -= 1
            return self._say("421 too busy")
        self._say("220 here")
        recipients: list[str] = []
        while line := self.rfile.readline().decode().strip():
            verb = line[:4].upper()
            if verb == "EHLO":
                self._say("250-here\r\n250 AUTH PLAIN")
            elif verb == "AUTH":
                self._say("235 welcome" if line.split()[-1] == _LOGIN else "535 who is that")
            elif verb == "RCPT":
                address = line.partition("<")[2].partition(">")[0]
                is_refused = address in self.server.refused
                recipients += [] if is_refused else [address]
                self._say("550 nobody" if is_refused else "250 ok")
            elif verb == "DATA":
                self._say("354 go on")
                self.server.taken.append((self._read_message(), recipients))
                self._say("250 taken")
            elif verb == "QUIT":
                return self._say(self.server.goodbye)
            else:
                self._say("250 ok")
        return None

    def _read_message(self) -> EmailMessage:
        lines = []
        while (line := self.rfile.readline()) != b".\r\n":
            lines.append(line)
        message = message_from_bytes(b"".join(lines), policy=policy.default)
        assert isinstance(message, EmailMessage)
        return message

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@contextmanager
def serve_mail(certificate: Path | None = None) -> Iterator[MailServer]:
    """One that answers while the block runs; with a certificate, by TLS."""
    with serving(MailServer(certificate)) as server:
        yield server
