from __future__ import annotations

import base64
import http.server
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from httpx import ConnectError, InvalidURL
from pydantic import ValidationError

from ft_pipeline.publishing.alias import alias_folder
from ft_pipeline_tests.loopback_server import serving
from ft_pipeline_tests.publishing.small_models import FILES, Publishing, make_recipe

TOKEN = "hf_" + "s" * 34
REPO = "me/tickets"


class Hub:
    """What the Hub was asked, and how it refuses; in the place of the library's client."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.repos: list[tuple[str, bool, bool]] = []
        self.uploads: list[tuple[str, str, dict[str, str]]] = []

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.repos.append((repo_id, private, exist_ok))

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        if self.fault:
            raise self.fault
        assert not Path(folder_path).is_symlink()
        files = {path.name: path.read_text() for path in Path(folder_path).iterdir()}
        self.uploads.append((repo_id, commit_message, files))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A Hub that takes all, of an account with a token."""
    found = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: found)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return found


def _publishing(tmp_path: Path, **settings: Any) -> Publishing:
    return Publishing(tmp_path, make_recipe(hub_repo=REPO, **settings))


def test_the_whole_version_is_uploaded_to_a_private_repository_once(tmp_path: Path, hub: Hub) -> None:
    publishing = _publishing(tmp_path)
    done = publishing.publish(1)
    assert publishing.publish(1).deliveries[0].startswith("Hub me/tickets: has")
    shown = publishing.fingerprint(1)[:12]
    assert done.deliveries == (f"Hub me/tickets: has {shown} now",)
    assert hub.repos == [(REPO, True, True)]
    ((repo, message, files),) = hub.uploads
    assert (repo, message) == (REPO, f"demo {shown}")
    assert files.keys() == {*FILES, "manifest.json", "champion.json", "SHA256SUMS"}
    assert files["Modelfile"] == "Modelfile of model 1\n"


def test_a_public_one_must_be_asked_for(tmp_path: Path, hub: Hub) -> None:
    _publishing(tmp_path, hub_private=False).publish(1)
    assert hub.repos == [(REPO, False, True)]


def test_a_rollback_is_uploaded_too(tmp_path: Path, hub: Hub) -> None:
    publishing = _publishing(tmp_path)
    publishing.publish(1)
    publishing.publish(2)
    publishing.roll_back()
    assert [files["Modelfile"] for _, _, files in hub.uploads] == [f"Modelfile of model {n}\n" for n in (1, 2, 1)]


@pytest.mark.parametrize(
    "fault",
    [
        ConnectError(f"Illegal header value b'Bearer {TOKEN}\\n'"),
        OSError(f"403 Forbidden for {TOKEN}"),
        ValueError(TOKEN),
        RuntimeError(f"data processing error: {TOKEN}"),
        InvalidURL(f"Invalid port: {TOKEN}"),
    ],
)
def test_a_failure_is_a_warning_without_the_token_and_is_tried_again(
    tmp_path: Path, hub: Hub, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    publishing = _publishing(tmp_path)
    hub.fault = fault
    with caplog.at_level(logging.DEBUG):
        done = publishing.publish(1)
    assert done.published
    assert "Hub me/tickets could not be given" in caplog.text
    assert "[token]" in caplog.text
    assert "Uploading needs a token that may write" in done.deliveries[0]
    written = (alias_folder(publishing.store.root) / "demo.json").read_text()
    assert "[token]" in written
    assert TOKEN not in written + caplog.text + repr(done)
    hub.fault = None
    assert publishing.publish(1).deliveries[0].endswith("now")
    assert len(hub.uploads) == 1


def test_an_endpoint_that_is_no_address_is_a_warning_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ValueError("Invalid IPv6 URL")

    monkeypatch.setattr(huggingface_hub, "HfApi", refuse)
    done = _publishing(tmp_path).publish(1)
    assert done.published
    assert "failed, Invalid IPv6 URL." in done.deliveries[0]


class _HubServer(http.server.ThreadingHTTPServer):
    """As much of the Hub as creating a repository and one commit of small files need."""

    authorizations: set[str]
    committed: dict[str, bytes]


class _HubHandler(http.server.BaseHTTPRequestHandler):
    server: _HubServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.authorizations.add(self.headers.get("Authorization", ""))
        if self.path == "/api/repos/create":
            self._answer({"url": f"https://huggingface.co/{REPO}"})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif self.path == f"/api/models/{REPO}/preupload/main":
            files = [file["path"] for file in json.loads(body)["files"]]
            self._answer({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]})
        elif self.path == f"/api/models/{REPO}/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.committed[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer({"commitUrl": f"https://huggingface.co/{REPO}/commit/{'0' * 40}", "commitOid": "0" * 40})
        else:
            self.send_error(404)

    def _answer(self, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_HubServer]:
    """A Hub on this machine, for the library as it is."""
    with serving(_HubServer(("127.0.0.1", 0), _HubHandler)) as server:
        server.authorizations, server.committed = set(), {}
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


def test_the_library_itself_commits_every_byte(tmp_path: Path, hub_server: _HubServer) -> None:
    publishing = _publishing(tmp_path)
    done = publishing.publish(1)
    assert done.deliveries == (f"Hub me/tickets: has {publishing.fingerprint(1)[:12]} now",)
    assert hub_server.committed == {path.name: path.read_bytes() for path in publishing.link.iterdir()}
    assert hub_server.authorizations == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("repo", ["tickets", "me/tickets/v2", "../x", "me/", "https://huggingface.co/me/x"])
def test_a_name_that_is_none_is_an_error_of_the_recipe(repo: str) -> None:
    with pytest.raises(ValidationError, match="hub_repo"):
        make_recipe(hub_repo=repo)
