"""Dagster's daemon is killed in the middle of a look at a bucket, and again when it has just started a run."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from moto.server import ThreadedMotoServer

from ft_pipeline_tests.dagster_server import REPOSITORY, DagsterServer, serve, wait_until
from ft_pipeline_tests.s3_server import ACCOUNT, QUIET, Bucket
from ft_pipeline_tests.user_project import RECIPE, ROW, make_project

pytestmark = [pytest.mark.slow, *QUIET]
_SENSOR = REPOSITORY | {"sensorName": "mine_on_new_data"}
_TURN_ON = """mutation ($sensor: SensorSelector!) { startSensor(sensorSelector: $sensor) { __typename } }"""
_TICKS = """query ($sensor: SensorSelector!) { sensorOrError(sensorSelector: $sensor) { ... on Sensor {
    sensorState { ticks(limit: 20) { status skipReason } } } } }"""
_RUNS = "{ runsOrError { ... on Runs { results { runId } } } }"
# A look, its pause, and a slow machine's start.
_PATIENCE_SECONDS = 180


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project whose rows lie in a bucket."""
    found = make_project(tmp_path / "root", tiny_base, monkeypatch)
    dataset = RECIPE["dataset"] | {"sources": ["s3://rows/new"], "allowed_roots": ["s3://rows"]}
    words = RECIPE | {"dataset": dataset, "retraining": {"quiet_seconds": 0}}
    (found / "recipes/mine.yaml").write_text(yaml.safe_dump(words))


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where the bucket should be: it takes calls and never answers, so a look that has called is in its middle."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(_PATIENCE_SECONDS)
        for name, value in (ACCOUNT | {"AWS_ENDPOINT_URL": _url_of(listener)}).items():
            monkeypatch.setenv(name, value)
        yield listener


def _url_of(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def _list_ticks(server: DagsterServer) -> list[Any]:
    """What the sensor's page shows, newest first."""
    ticks: list[Any] = server.ask(_TICKS, sensor=_SENSOR)["sensorOrError"]["sensorState"]["ticks"]
    return ticks


def _list_runs(server: DagsterServer) -> list[str]:
    return [run["runId"] for run in server.ask(_RUNS)["runsOrError"]["results"]]


def test_a_content_starts_one_run_whenever_the_daemon_dies(
    silent: socket.socket, project: Path, tmp_path: Path
) -> None:
    home, url = tmp_path / "home", _url_of(silent)
    with serve(home, project, {}) as server:
        assert server.ask(_TURN_ON, sensor=_SENSOR)["startSensor"]["__typename"] == "Sensor"
        with silent.accept()[0]:
            assert [tick["status"] for tick in _list_ticks(server)] == ["STARTED"]
            server.kill_daemon()
    silent.close()

    moto = ThreadedMotoServer("127.0.0.1", int(url.rpartition(":")[2]))
    moto.start()
    try:
        Bucket(url).put("new/a.jsonl", "".join(ROW % (number, number) for number in range(20)).encode())
        with serve(home, project, {}) as server:
            wait_until(lambda: _list_runs(server), _PATIENCE_SECONDS, lambda: _list_ticks(server))
            server.kill_daemon()
        with serve(home, project, {}) as server:
            wait_until(lambda: _list_ticks(server)[0]["skipReason"], _PATIENCE_SECONDS, lambda: _list_ticks(server))
            (run,) = _list_runs(server)
            assert run in _list_ticks(server)[0]["skipReason"]
    finally:
        moto.stop()
