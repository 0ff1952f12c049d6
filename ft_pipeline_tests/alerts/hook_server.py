"""A webhook on this machine that keeps what it is sent."""

from __future__ import annotations

import http.server
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ft_pipeline_tests.loopback_server import serving


class HookServer(http.server.ThreadingHTTPServer):
    """Answers with the next of `answers`, and then 200.

    Attributes:
        taken: The JSON of each request, with the path that it came to.
        answers: Status codes; a text is a redirect to that URL, bytes are all that is said.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.taken: list[tuple[str, dict[str, Any]]] = []
        self.answers: list[int | str | bytes] = []

    @property
    def url(self) -> str:
        """Where it is, with a secret in it."""
        return f"http://127.0.0.1:{self.server_address[1]}/hooks/T0P-S3CRET"

    @property
    def titles(self) -> list[str]:
        """The first lines of what it was sent."""
        return [body["title"] for _, body in self.taken]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HookServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.taken.append((self.path, body))
        answer = self.server.answers.pop(0) if self.server.answers else 200
        if isinstance(answer, bytes):
            self.wfile.write(answer)
            return
        self.send_response(answer if isinstance(answer, int) else 307)
        if isinstance(answer, str):
            self.send_header("Location", answer)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        """Nothing is printed."""


@contextmanager
def serve_hook() -> Iterator[HookServer]:
    """One that answers while the block runs."""
    with serving(HookServer()) as server:
        yield server
