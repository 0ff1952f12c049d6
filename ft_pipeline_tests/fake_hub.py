"""As much of the Hugging Face Hub as a base and its commit need, on this machine."""

from __future__ import annotations

import hashlib
import http.server
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import pytest

from ft_pipeline_tests.loopback_server import serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL, GATED, DATA = "org/model", "org/gated", "somebody/questions"


@dataclass
class HubContent:
    """What the Hub has, and how it refuses.

    Attributes:
        files: Of MODEL and of GATED, by name.
        commit: What both and DATA are at.
        asked: The paths of all requests.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    commit: str | None = COMMIT
    asked: list[str] = field(default_factory=list)


class _Server(http.server.ThreadingHTTPServer):
    content: HubContent


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path).partition("?")[0]
        content = self.server.content
        content.asked.append(path)
        name = next((name for name in (MODEL, GATED, DATA) if f"/{name}" in path), None)
        rest = path.partition(f"/{name}")[2]
        if name is None:
            self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif rest in {"", "/revision/main", f"/revision/{COMMIT}"}:
            self._send_json({"id": name, "sha": content.commit, "private": False, "tags": [], "siblings": []})
        elif rest.startswith(f"/tree/{COMMIT}"):
            self._send_json([{"type": "file", "path": n, "size": len(b), "oid": n} for n, b in content.files.items()])
        elif rest.startswith(f"/resolve/{COMMIT}/"):
            self._send_file(name, content.files[rest.removeprefix(f"/resolve/{COMMIT}/")])
        else:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})

    def _send_file(self, name: str, data: bytes) -> None:
        if name == GATED:
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        else:
            # Of large files the Hub tells the SHA-256, of small ones the hash that git has of them.
            is_large = self.path.endswith(".safetensors")
            etag = hashlib.sha256(data).hexdigest() if is_large else f"{len(data):040x}"
            self._send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def _send_json(self, answer: Any) -> None:
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serve_hub(content: HubContent, cache: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve it; the library of this process asks nobody else. Gives its address."""
    from huggingface_hub import constants

    with serving(_Server(("127.0.0.1", 0), _Handler)) as server:
        server.content = content
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield address
