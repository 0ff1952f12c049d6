from __future__ import annotations

import http.server
import json
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ft_pipeline.datasets.sources import SourceFile, find_sources, network, open_source
from ft_pipeline.datasets.sources.copies import draft
from ft_pipeline.errors import DiskSpaceError, SourceError
from ft_pipeline.recipe import DatasetSection
from ft_pipeline_tests.loopback_server import serving


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "PAUSES_SECONDS", (0.0, 0.0))


def _find(root: Path, *sources: str, allowed: tuple[str, ...] = ("data",)) -> tuple[SourceFile, ...]:
    section = DatasetSection.model_validate({"sources": sources, "allowed_roots": allowed})
    return find_sources(section, root, root / "downloads")


def _read(source: SourceFile) -> bytes:
    with open_source(source.path, source.name) as stream:
        return stream.read()


class _Server(http.server.ThreadingHTTPServer):
    """Serves what a test puts into it, as the test wants it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}
        self.status: dict[str, list[int]] = {}
        self.redirects: dict[str, str] = {}
        self.cut_bytes: Counter[str] = Counter()
        self.gets: Counter[str] = Counter()
        self.authorizations: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self.server.gets[self.path] += 1
        self.server.authorizations.append(self.headers.get("Authorization"))
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        server, path = self.server, self.path.partition("?")[0]
        planned = server.status.get(path, [])
        if path in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if planned or path not in server.files:
            self.send_response(planned.pop(0) if planned else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.files[path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if path.endswith("/"):
            self.send_header("Content-Type", "text/html")
        for name, value in server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            cut = server.cut_bytes[path] > 0
            server.cut_bytes[path] -= 1
            self.wfile.write(body[: len(body) // 2] if cut else body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[_Server]:
    with serving(_Server()) as served:
        yield served


def test_a_file_of_a_web_server_is_fetched_once_while_its_etag_stays(server: _Server, tmp_path: Path) -> None:
    server.files["/a.jsonl"] = b"old\n"
    server.headers["ETag"] = '"1"'
    url = f"{server.url}/a.jsonl"
    (first,) = _find(tmp_path, url, allowed=(server.url,))
    assert _find(tmp_path, url, allowed=(server.url,)) == (first,)
    assert server.gets["/a.jsonl"] == 1
    assert json.loads(first.path.with_suffix(".json").read_text())["etag"] == '"1"'
    server.files["/a.jsonl"] = b"new\n"
    server.headers["ETag"] = '"2"'
    (second,) = _find(tmp_path, url, allowed=(server.url,))
    assert (_read(first), _read(second)) == (b"old\n", b"new\n")


def test_without_an_etag_a_file_is_fetched_each_time_and_kept_once(server: _Server, tmp_path: Path) -> None:
    server.files["/a.jsonl"] = b"old\n"
    url = f"{server.url}/a.jsonl"
    (first,) = _find(tmp_path, url, allowed=(server.url,))
    assert _find(tmp_path, url, allowed=(server.url,)) == (first,)
    server.files["/a.jsonl"] = b"new\n"
    (second,) = _find(tmp_path, url, allowed=(server.url,))
    assert _read(second) == b"new\n"
    assert server.gets["/a.jsonl"] == 3


def test_a_damaged_copy_is_fetched_anew(server: _Server, tmp_path: Path) -> None:
    server.files["/a.jsonl"] = b"good\n"
    server.headers["ETag"] = '"1"'
    (first,) = _find(tmp_path, f"{server.url}/a.jsonl", allowed=(server.url,))
    first.path.write_bytes(b"evil\n")
    (second,) = _find(tmp_path, f"{server.url}/a.jsonl", allowed=(server.url,))
    assert (second, _read(second)) == (first, b"good\n")


def test_a_body_that_ends_early_is_fetched_again(server: _Server, tmp_path: Path) -> None:
    server.files["/a.jsonl"] = b"row\n" * 1000
    server.cut_bytes["/a.jsonl"] = 2
    (found,) = _find(tmp_path, f"{server.url}/a.jsonl", allowed=(server.url,))
    assert _read(found) == b"row\n" * 1000
    assert server.gets["/a.jsonl"] == 3


def test_a_body_that_always_ends_early_is_an_error_and_leaves_nothing(server: _Server, tmp_path: Path) -> None:
    server.files["/a.jsonl"] = b"row\n" * 1000
    server.cut_bytes["/a.jsonl"] = 99
    with pytest.raises(SourceError, match=r"/a.jsonl: cannot be fetched: ClientPayloadError"):
        _find(tmp_path, f"{server.url}/a.jsonl", allowed=(server.url,))
    assert [path.name for path in (tmp_path / "downloads").rglob("*") if path.is_file()] == [".lock"]


def test_a_busy_server_is_asked_again_and_a_refusal_is_final(server: _Server, tmp_path: Path) -> None:
    server.files["/a.jsonl"] = server.files["/b.jsonl"] = b"row\n"
    server.status["/a.jsonl"] = [503, 503]  # of HEAD and GET
    assert len(_find(tmp_path, f"{server.url}/a.jsonl", allowed=(server.url,))) == 1
    server.status["/b.jsonl"] = [403] * 9
    with pytest.raises(
        SourceError, match=r"/b.jsonl: cannot be fetched: ClientResponseError: 403, message='Forbidden'"
    ):
        _find(tmp_path, f"{server.url}/b.jsonl", allowed=(server.url,))
    assert server.gets["/b.jsonl"] == 1


def test_a_server_that_is_not_there_is_an_error(server: _Server, tmp_path: Path) -> None:
    url = server.url
    server.server_close()
    with pytest.raises(SourceError, match=r"/a.jsonl: cannot be fetched: ClientConnectorError"):
        _find(tmp_path, f"{url}/a.jsonl", allowed=(url,))


def test_a_folder_of_a_web_server_is_read_from_its_listing(server: _Server, tmp_path: Path) -> None:
    server.files |= {
        "/d/": b'<a href="../">up</a> <a href="?C=N;O=D">name</a> <a href="a.jsonl">a</a> <a href="deep/">deep</a>',
        "/d/deep/": b'<a href="b%20c.csv">b</a> <a href="http://evil.invalid/x.csv">x</a>',
        "/d/a.jsonl": b"a\n",
        "/d/deep/b%20c.csv": b"b\n",
    }
    server.redirects["/d/deep"] = "/d/deep/"
    found = _find(tmp_path, f"{server.url}/d/", allowed=(f"{server.url}/d",))
    assert {source.name: _read(source) for source in found} == {
        f"{server.url}/d/a.jsonl": b"a\n",
        f"{server.url}/d/deep/b%20c.csv": b"b\n",
    }
    (globbed,) = _find(tmp_path, f"{server.url}/d/*.jsonl", allowed=(server.url,))
    assert globbed.name == f"{server.url}/d/a.jsonl"


def test_a_server_may_send_on_only_to_what_is_allowed(server: _Server, tmp_path: Path) -> None:
    server.files |= {"/other/b.jsonl": b"b\n", "/in/c.jsonl": b"c\n"}
    server.redirects |= {"/in/a.jsonl": "/other/b.jsonl?token=hidden", "/in/d.jsonl": "/in/c.jsonl"}
    allowed = (f"{server.url}/in",)
    with pytest.raises(SourceError, match=r"/other/b.jsonl\?token=\*\*\*: lies outside dataset.allowed_roots"):
        _find(tmp_path, f"{server.url}/in/a.jsonl", allowed=allowed)
    assert server.gets["/other/b.jsonl?token=hidden"] == 0
    assert _read(_find(tmp_path, f"{server.url}/in/d.jsonl", allowed=allowed)[0]) == b"c\n"


@pytest.mark.parametrize("status", [200, 403, 404, 500])
def test_credentials_in_a_url_are_used_and_never_shown(
    server: _Server, tmp_path: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.files["/a.jsonl"] = b"a\n"
    if status != 200:
        server.status["/a.jsonl"] = [status] * 20
    secrets = ("hush%2Fpass", "hush/pass", "sig%2Fnature%3D", "sig/nature=", "t0ken-value")
    host = server.url.removeprefix("http://")
    url = f"http://user:{secrets[0]}@{host}/a.jsonl?X-Amz-Signature={secrets[2]}&token={secrets[4]}"
    if status == 200:
        (found,) = _find(tmp_path, url, allowed=(server.url,))
        said = repr(found)
        assert server.authorizations == ["Basic dXNlcjpodXNoL3Bhc3M="]
        assert list(server.gets) == [f"/a.jsonl?X-Amz-Signature={secrets[2]}&token={secrets[4]}"]
    else:
        with pytest.raises(SourceError, match="cannot be fetched") as caught:
            _find(tmp_path, url, allowed=(server.url,))
        said = "".join(traceback.format_exception(caught.value))
    assert f"{server.url}/a.jsonl?X-Amz-Signature=***&token=***" in said
    said += caplog.text + "".join(str(path) for path in tmp_path.rglob("*"))
    said += "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert not [secret for secret in secrets if secret in said]


def test_a_file_above_the_largest_size_is_refused(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft_pipeline.datasets.sources.copies.MAX_FILE_BYTES", 3)
    server.files["/a.jsonl"] = b"four"
    with pytest.raises(SourceError, match=r"/a.jsonl: has 0.00 GiB, a source has at most 0.00 GiB. Split it"):
        _find(tmp_path, f"{server.url}/a.jsonl", allowed=(server.url,))
    assert not server.gets


def test_a_full_disk_is_told_before_the_file_is_fetched(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft_pipeline.datasets.sources.copies._MARGIN_BYTES", 1 << 60)
    server.files["/a.jsonl"] = b"a\n"
    with pytest.raises(DiskSpaceError, match=r"/a.jsonl: its copy needs 0.00 GiB of disk in"):
        _find(tmp_path, f"{server.url}/a.jsonl", allowed=(server.url,))
    assert not server.gets


def test_what_a_killed_process_has_left_is_removed(server: _Server, tmp_path: Path) -> None:
    server.files["/a.jsonl"] = b"a\n"
    (found,) = _find(tmp_path, f"{server.url}/a.jsonl", allowed=(server.url,))
    with draft(found.path.parent) as path:
        left = path
    left.write_bytes(b"half")
    _find(tmp_path, f"{server.url}/a.jsonl", allowed=(server.url,))
    assert not left.exists()


def test_threads_that_want_one_file_fetch_it_once(server: _Server, tmp_path: Path) -> None:
    server.files["/a.jsonl"] = b"a\n" * 100_000
    server.headers["ETag"] = '"1"'
    found: list[SourceFile] = []
    url = f"{server.url}/a.jsonl"
    threads = [
        threading.Thread(target=lambda: found.extend(_find(tmp_path, url, allowed=(server.url,)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(map(str, found))) == 1
    assert server.gets["/a.jsonl"] == 1
