from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from ft_pipeline.datasets.sources import find_sources
from ft_pipeline.errors import SourceError
from ft_pipeline.recipe import DatasetSection
from ft_pipeline_tests.loopback_server import serving

_COMMIT = "0123456789abcdef0123456789abcdef01234567"
_NAME = "somebody/questions"
_HUB = f"hf://datasets/{_NAME}"
_FILES = {
    "README.md": b"---\nconfigs:\n- config_name: easy\n  data_files:\n  - split: train\n    path: data/train.jsonl\n"
    b"  - split: test\n    path: data/test.jsonl\n---\n",
    "data/train.jsonl": b"".join(b'{"question": "%d?", "answer": "%d"}\n' % (i, i) for i in range(2500)),
    "data/test.jsonl": b'{"question": "why?", "answer": "so"}\n',
}

# The Hub's address is read from the environment on import, so sources are found in a process of their own.
_SCRIPT = """
import json, sys
from pathlib import Path
from ft_pipeline.datasets.sources import find_sources
from ft_pipeline.errors import SourceError
from ft_pipeline.recipe import DatasetSection
root = Path.cwd()
try:
    found = find_sources(DatasetSection.model_validate(json.loads(sys.argv[1])), root, root / "downloads")
    json.dump({"found": {source.name: str(source.path) for source in found}}, sys.stdout)
except SourceError as err:
    json.dump({"error": str(err)}, sys.stdout)
"""


class _Hub(http.server.ThreadingHTTPServer):
    """As much of the Hub as the two libraries ask for one data set at one commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.token: str | None = None  # of a private data set
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        path = unquote(self.path)
        self.server.asked.append(path)
        if self._refuses():
            return
        if path != f"/api/datasets/{_NAME}/paths-info/{_COMMIT}":
            self._send(404, b"{}")
            return
        wanted = json.loads(body)["paths"] if body.startswith("{") else _form(body)
        self._send_json([entry for entry in _tree("", recursive=True) if entry["path"] in wanted])

    def do_GET(self) -> None:
        path, _, query = unquote(self.path).partition("?")
        self.server.asked.append(path)
        if self._refuses():
            return
        api, tree = f"/api/datasets/{_NAME}", f"/api/datasets/{_NAME}/tree/{_COMMIT}"
        if path in {api, f"{api}/revision/{_COMMIT}"}:
            siblings = [{"rfilename": name} for name in _FILES]
            self._send_json({"id": _NAME, "sha": _COMMIT, "private": False, "tags": [], "siblings": siblings})
        elif path == tree or path.startswith(f"{tree}/"):
            self._send_json(_tree(path.removeprefix(tree).strip("/"), recursive="recursive=true" in query.lower()))
        elif (name := path.partition(f"/datasets/{_NAME}/resolve/{_COMMIT}/")[2]) in _FILES:
            self._send(200, _FILES[name], {"ETag": f'"{_oid(name)}"', "X-Repo-Commit": _COMMIT})
        else:
            kind = "EntryNotFound" if _COMMIT in path else "RevisionNotFound" if _NAME in path else "RepoNotFound"
            self._send(404, b"{}", {"X-Error-Code": kind})

    def _refuses(self) -> bool:
        """Who may not see a data set is told that there is none."""
        if self.server.token in (None, (self.headers["Authorization"] or "").removeprefix("Bearer ")):
            return False
        self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        return True

    def _send_json(self, answer: Any) -> None:
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _form(body: str) -> list[str]:
    return [unquote(value) for name, _, value in (part.partition("=") for part in body.split("&")) if name == "paths"]


def _oid(name: str) -> str:
    return f"{sorted(_FILES).index(name):040x}"


def _tree(folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    entries = [
        {"type": "file", "path": name, "size": len(data), "oid": _oid(name)} for name, data in sorted(_FILES.items())
    ]
    entries.append({"type": "directory", "path": "data", "oid": "f" * 40})
    inside = [entry for entry in entries if not folder or str(entry["path"]).startswith(f"{folder}/")]
    depth = folder.count("/") + 1 if folder else 0
    return [entry for entry in inside if recursive or str(entry["path"]).count("/") == depth]


@dataclass
class _Project:
    root: Path
    hub: _Hub
    environment: dict[str, str] = field(default_factory=dict)

    def find(self, *sources: str | dict[str, Any], allowed: str = _HUB, **environment: str) -> dict[str, Any]:
        section = json.dumps({"sources": sources, "allowed_roots": [allowed]})
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, section],
            cwd=self.root,
            env={**os.environ, **self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result


@pytest.fixture
def project(tmp_path: Path) -> Iterator[_Project]:
    with serving(_Hub()) as hub:
        here = str(Path(__file__).parent.parent.parent)
        environment = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": here,
        }
        (tmp_path / "root").mkdir()
        yield _Project(tmp_path / "root", hub, environment)


def test_files_of_a_repository_are_fetched_once_and_then_found_offline(project: _Project) -> None:
    source = f"{_HUB}@{_COMMIT}/data/*.jsonl"
    first = project.find(source)
    assert {name: Path(path).read_bytes() for name, path in first["found"].items()} == {
        f"{_HUB}@{_COMMIT}/data/{name}": _FILES[f"data/{name}"] for name in ("train.jsonl", "test.jsonl")
    }
    project.hub.asked.clear()
    assert project.find(source) == first
    assert project.find({"path": f"{_HUB}/data/*.jsonl", "revision": _COMMIT}, HF_HUB_OFFLINE="1") == first
    assert project.hub.asked == []


def test_a_folder_of_a_repository_gives_its_data_files(project: _Project) -> None:
    found = project.find(f"{_HUB}@{_COMMIT}", f"{_HUB}@{_COMMIT}/data/test.jsonl")["found"]
    assert sorted(found) == [f"{_HUB}@{_COMMIT}/data/{name}.jsonl" for name in ("test", "train")]


def test_a_split_is_exported_once_and_then_found_offline(project: _Project) -> None:
    import pyarrow.parquet as pq

    source = {"path": _NAME, "revision": _COMMIT, "subset": "easy"}
    first = project.find(source)
    ((name, path),) = first["found"].items()
    assert name == f"{_HUB}@{_COMMIT}/easy/train.parquet"
    rows = pq.read_table(path).to_pylist()
    assert rows == [json.loads(line) for line in _FILES["data/train.jsonl"].splitlines()]
    project.hub.asked.clear()
    assert project.find(source) == first
    assert project.find(source, HF_HUB_OFFLINE="1", HF_HOME="/nonexistent") == first
    assert project.hub.asked == []


def test_what_the_hub_does_not_have_is_told_at_once(project: _Project) -> None:
    told = project.find(
        {"path": _NAME, "revision": _COMMIT, "split": "none"},
        {"path": _NAME, "revision": _COMMIT, "subset": "hard"},
        f"{_HUB}@{_COMMIT}/none.jsonl",
    )["error"]
    assert f"{_NAME}: split 'none' of subset 'default' at {_COMMIT} cannot be loaded: ValueError" in told
    assert f"{_NAME}: split 'train' of subset 'hard' at {_COMMIT} cannot be loaded: ValueError" in told
    assert f"{_HUB}@{_COMMIT}/none.jsonl: cannot be fetched: not found" in told


def test_a_private_data_set_needs_the_token_of_the_environment_which_is_shown_nowhere(project: _Project) -> None:
    project.hub.token = "hf_secret-of-the-test"
    for source in (f"{_HUB}@{_COMMIT}/data/test.jsonl", {"path": _NAME, "revision": _COMMIT}):
        for environment in ({}, {"HF_TOKEN": "hf_wrong-one"}):
            told = project.find(source, **environment)["error"]
            assert f"{_NAME}" in told
            assert "hf_wrong-one" not in told
        assert len(project.find(source, HF_TOKEN=project.hub.token)["found"]) == 1
    written = [path for path in project.root.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if project.hub.token.encode() in path.read_bytes()]


def test_offline_what_was_never_fetched_is_an_error(project: _Project) -> None:
    told = project.find({"path": _NAME, "revision": _COMMIT}, f"{_HUB}@{_COMMIT}/data/test.jsonl", HF_HUB_OFFLINE="1")[
        "error"
    ]
    assert "cannot be loaded" in told
    assert "offline, load it once before" in told
    assert f"{_HUB}@{_COMMIT}/data/test.jsonl: cannot be fetched: OfflineModeIsEnabled" in told
    assert project.hub.asked == []


def test_a_folder_that_would_hide_the_hubs_data_set_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere" / _NAME).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match=rf"{_NAME}: a folder of that name in .*elsewhere hides the Hub's"):
        _find(tmp_path, {"path": _NAME, "revision": _COMMIT})


def _find(root: Path, *sources: str | dict[str, Any], allowed: str = _HUB) -> None:
    find_sources(
        DatasetSection.model_validate({"sources": sources, "allowed_roots": [allowed]}), root, root / "downloads"
    )


@pytest.mark.parametrize(
    "source",
    [
        _NAME,
        f"{_HUB}/data/a.jsonl",
        f"{_HUB}@main/data/a.jsonl",
        f"{_HUB}@{_COMMIT[:7]}/data/a.jsonl",
    ],
)
def test_a_source_of_the_hub_without_a_whole_commit_is_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(SourceError, match=r"needs a revision of 40 hex digits, got .*A branch moves"):
        _find(tmp_path, source)


def test_a_url_and_its_revision_must_name_one_commit(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="name two commits"):
        _find(tmp_path, {"path": f"{_HUB}@{_COMMIT}/a.jsonl", "revision": "f" * 40})


@pytest.mark.parametrize(
    "source", [{"path": _NAME, "revision": _COMMIT}, f"{_HUB}@{_COMMIT}/a.jsonl", f"{_HUB}@{_COMMIT}"]
)
@pytest.mark.parametrize("allowed", ["data", "hf://datasets/somebody/quest", "hf://datasets/other", "s3://"])
def test_a_source_of_the_hub_must_be_allowed(tmp_path: Path, source: str | dict[str, Any], allowed: str) -> None:
    with pytest.raises(SourceError, match=r"dataset\.allowed_roots"):
        _find(tmp_path, source, allowed=allowed)


@pytest.mark.parametrize("source", ["hf://somebody/model/a.jsonl", "hf://spaces/a/b/c.csv", "hf://datasets/one"])
def test_only_data_sets_of_the_hub_are_sources(tmp_path: Path, source: str) -> None:
    with pytest.raises(SourceError, match=r"is no hf://datasets/owner/name"):
        _find(tmp_path, source, allowed="hf://")


def test_a_mistyped_folder_is_told_as_one(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"data/rwa: is no file or folder of the project. If it is a data set of the"):
        _find(tmp_path, "data/rwa", allowed="data")
