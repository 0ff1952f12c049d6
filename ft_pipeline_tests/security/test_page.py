"""Dagster's page as `make dev` starts it: for this machine, for its own page, and behind nginx for others."""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from ft_pipeline.defs.dev import guard
from ft_pipeline.errors import ResourceError
from ft_pipeline.same_origin import find_fault
from ft_pipeline_tests.alerts.hook_server import HookServer, serve_hook
from ft_pipeline_tests.dagster_server import DagsterServer, serve, wait_until
from ft_pipeline_tests.needs import need_program
from ft_pipeline_tests.security.nginx import PASSWORD, USER, find_nginx, serve_behind
from ft_pipeline_tests.user_project import make_project

_VERSION = "{ version }"
# What a browser sends where somebody follows a link of another page.
_OPENED = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
_SPEAKS = [Subprotocol("graphql-ws")]
# What asks a real question only if it gets through.
_TURN_OFF = "mutation { setAutoMaterializePaused(paused: true) }"
_SENSOR = {
    "repositoryName": "__repository__",
    "repositoryLocationName": "ft_pipeline.definitions",
    "sensorName": "alerts",
}
_START = "mutation ($it: SensorSelector!) { startSensor(sensorSelector: $it) { __typename } }"
_TICKS = """query ($it: SensorSelector!) { sensorOrError(sensorSelector: $it) {
    ... on Sensor { sensorState { ticks(limit: 20) { status skipReason error { message } } } } } }"""


@pytest.fixture(scope="module")
def hook() -> Iterator[HookServer]:
    with serve_hook() as server:
        yield server


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, project: Path, tiny_base: Path, hook: HookServer
) -> Iterator[DagsterServer]:
    """Dagster on a small project whose data is missing, with somebody to be told of that."""
    root = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        make_project(root / "project", tiny_base, patch)
        (root / "project/data/rows.jsonl").unlink()
        with serve(root / "home", project, {"FT_PIPELINE_ALERT_WEBHOOK": hook.url}) as running:
            yield running


@pytest.mark.slow
def test_no_process_of_it_listens_to_other_machines(server: DagsterServer) -> None:
    listening = _list_listening(set(server.list_processes()))
    port = urlsplit(server.url).port
    assert f"127.0.0.1:{port}" in listening
    assert all(address.startswith(("127.0.0.1:", "[::1]:")) for address in listening), listening


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Host": "evil.example:3000"},
        {"Host": "127.0.0.1.evil.example"},
    ],
    ids=str,
)
@pytest.mark.slow
def test_another_web_page_cannot_run_anything(server: DagsterServer, headers: dict[str, str]) -> None:
    # An image's address is enough to send this.
    assert _ask(f"{server.url}/graphql?" + urlencode({"query": _TURN_OFF}), headers)[0] == 403
    assert _ask(f"{server.url}/graphql", headers, _VERSION)[0] == 403
    # The page itself, when it asks, and programs.
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert _ask(f"{server.url}/graphql", own, _VERSION)[0] == 200
    assert _ask(f"{server.url}/graphql", {}, _VERSION)[0] == 200


@pytest.mark.slow
def test_another_web_page_cannot_listen_to_runs(server: DagsterServer) -> None:
    address = server.url.replace("http://", "ws://") + "/graphql"
    with connect(address, subprotocols=_SPEAKS, origin=Origin(server.url)) as socket:
        socket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(socket.recv(20))["type"] == "connection_ack"
    with pytest.raises(InvalidStatus, match="403"):
        connect(address, subprotocols=_SPEAKS, origin=Origin("https://evil.example"))


@pytest.mark.parametrize(
    ("kind", "path", "headers", "answered"),
    [
        ("http", "/runs", {"host": "localhost:3000", **_OPENED}, True),
        ("http", "/runs", {"host": "localhost:3000", **_OPENED, "sec-fetch-mode": "cors"}, False),
        ("http", "/runs", {"host": "localhost:3000", **_OPENED, "sec-fetch-dest": "iframe"}, False),
        ("http", "/graphql", {"host": "localhost:3000", **_OPENED}, False),
        ("http", "/graphql", {"host": "[::1]:3000"}, True),
        ("http", "/graphql", {"host": "127.0.0.1"}, True),
        ("http", "/graphql", {"host": "[::1]"}, True),
        ("http", "/graphql", {"host": ""}, False),
        ("http", "/graphql", {"host": "[127.0.0.1x"}, False),
        ("http", "/graphql", {"host": "[127.0.0.1]x"}, False),
        ("http", "/graphql", {"host": "127.0.0.1:80:90"}, False),
        ("http", "/graphql", {"host": "localhost:3000", "origin": "https://LOCALHOST:3000"}, True),
        ("http", "/graphql", {"host": "localhost:3000", "origin": "x://localhost:3000"}, False),
        ("http", "/graphql", {"host": "localhost:3000", "origin": "localhost:3000"}, False),
        ("http", "/graphql", {"host": "localhost:3000", "origin": "null"}, False),
        ("websocket", "/graphql", {"host": "127.0.0.1:1", "origin": "http://127.0.0.1:1"}, True),
        ("websocket", "/x", {"host": "localhost", **_OPENED}, False),
    ],
)
def test_a_link_may_open_the_page_and_nothing_else(
    kind: str, path: str, headers: dict[str, str], answered: bool
) -> None:
    assert (find_fault(kind, path, headers) is None) is answered


def test_another_web_page_cannot_send_a_form() -> None:
    assert find_fault("http", "/runs", {"host": "localhost:3000", **_OPENED}, "POST") is not None


def test_a_dagster_that_starts_its_webserver_another_way_shows_no_page_without_guard() -> None:
    assert guard(["python", "-m", "dagster_webserver", "--port", "1"])[2] == "ft_pipeline.defs.webserver"
    daemon = ["python", "-m", "dagster._daemon", "run"]
    assert guard(daemon) == daemon
    for other in (["python", "-m", "dagster_webserver.cli"], ["dagster-webserver", "--port", "1"]):
        with pytest.raises(ResourceError, match="the page would have no guard"):
            guard(other)


@pytest.mark.slow
def test_another_web_page_cannot_show_the_page_in_a_frame(server: DagsterServer) -> None:
    for path in ("/", "/runs"):
        status, answer = _ask(server.url + path, {})
        assert status == 200
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers.get_all("Content-Security-Policy")


@pytest.mark.slow
def test_behind_nginx_it_takes_a_password_over_tls(server: DagsterServer, project: Path) -> None:
    program = find_nginx() or need_program("nginx", install="apt-get install nginx-light")
    with serve_behind(program, project, urlsplit(server.url).port or 0) as (url, certificate):
        trust = ssl.create_default_context(cafile=str(certificate))
        known = {"Authorization": "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
        own = known | {"Origin": url, "Sec-Fetch-Site": "same-origin"}
        assert _ask(url, {}, trust=trust)[0] == 401
        assert _ask(f"{url}/graphql", {}, _VERSION, trust)[0] == 401
        status, answer = _ask(url, known, trust=trust)
        assert (status, answer.headers.get_all("X-Frame-Options")) == (200, ["DENY"])
        assert _ask(f"{url}/graphql", known, _VERSION, trust)[0] == 200
        assert _ask(f"{url}/graphql", own, _VERSION, trust)[0] == 200
        for foreign in (
            {"Sec-Fetch-Site": "cross-site"},
            {"Origin": "https://evil.example"},
            {"Origin": f"{url}.evil"},
        ):
            assert _ask(f"{url}/graphql", known | foreign, _VERSION, trust)[0] == 403, foreign
        assert _ask(f"{url}/runs", known | _OPENED, trust=trust)[0] == 200
        assert _ask(f"{url}/runs", known | _OPENED, _VERSION, trust)[0] == 403
        for foreign in ({"Origin": "https://evil.example"}, {"sec-fetch-dest": "iframe"}):
            assert _ask(f"{url}/runs", known | _OPENED | foreign, trust=trust)[0] == 403, foreign
        large = "{ version }" + " " * (11 << 20)
        assert _ask(f"{url}/graphql", known, large, trust)[0] == 413
        address = url.replace("https://", "wss://") + "/graphql"
        with connect(address, ssl=trust, subprotocols=_SPEAKS, additional_headers=own) as socket:
            socket.send(json.dumps({"type": "connection_init"}))
            assert json.loads(socket.recv(20))["type"] == "connection_ack"


@pytest.mark.slow
@pytest.mark.long
def test_a_run_that_fails_in_the_page_is_told_once(server: DagsterServer, hook: HookServer) -> None:
    assert server.ask(_START, it=_SENSOR)["startSensor"]["__typename"] == "Sensor"
    wait_until(lambda: len(_read_ticks(server)) > 0, 120, lambda: _read_ticks(server))
    run = server.launch("raw_dataset")
    wait_until(lambda: hook.taken, 180, lambda: (_read_ticks(server), server.read_log(run)))
    seen = len(_read_ticks(server))
    wait_until(lambda: len(_read_ticks(server)) > seen, 120, lambda: _read_ticks(server))
    ((_, body),) = hook.taken
    assert body["title"] == "ft_pipeline: a run of mine failed"
    assert "matches no file" in body["text"]
    assert run in body["text"]
    assert "S3CRET" not in json.dumps([_read_ticks(server), server.read_log(run)])


def _read_ticks(server: DagsterServer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.ask(_TICKS, it=_SENSOR)["sensorOrError"]["sensorState"]["ticks"]
    return [tick for tick in found if tick["status"] != "STARTED"]


def _ask(url: str, headers: dict[str, str], query: str | None = None, trust: ssl.SSLContext | None = None) -> Any:
    """The status and the answer to a request."""
    body = json.dumps({"query": query}).encode() if query else None
    sent = headers | ({"Content-Type": "application/json"} if body else {})
    request = urllib.request.Request(url, body, sent)  # noqa: S310 - our own
    try:
        with urllib.request.urlopen(request, timeout=30, context=trust) as answer:  # noqa: S310
            return answer.status, answer
    except urllib.error.HTTPError as err:
        err.close()
        return err.code, err


def _list_listening(processes: set[int]) -> set[str]:
    """The addresses that some processes listen at."""
    inodes = set()
    for process in processes:
        with suppress(OSError):
            for entry in os.scandir(f"/proc/{process}/fd"):
                with suppress(OSError):
                    if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry.path)):  # noqa: PTH115
                        inodes.add(found[1])
    addresses = set()
    for table, show in (("tcp", _show_four), ("tcp6", _show_six)):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                host, _, port = fields[1].partition(":")
                addresses.add(f"{show(host)}:{int(port, 16)}")
    return addresses


def _show_four(host: str) -> str:
    return ".".join(str(byte) for byte in reversed(bytes.fromhex(host)))


def _show_six(host: str) -> str:
    words = [bytes.fromhex(host[start : start + 8])[::-1].hex() for start in range(0, 32, 8)]
    whole = "".join(words)
    if whole.startswith("0" * 20 + "ffff"):  # an address of IPv4
        return ".".join(str(byte) for byte in bytes.fromhex(whole[24:]))
    return "[::1]" if int(whole, 16) == 1 else f"[{whole}]"
