from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ft_pipeline.operations.dagster_home import examine_dagster, examine_servers
from ft_pipeline.operations.finding import Finding

ANYBODY = "0.0.0.0"  # noqa: S104 - nobody binds it here


@pytest.fixture
def config(project: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((project / "dagster.yaml").read_text())
    return found


def _examine(home: Path, config: dict[str, Any] | None = None, url: str | None = None) -> dict[str, Finding]:
    if config is not None:
        (home / "dagster.yaml").write_text(yaml.safe_dump(config))
    return {finding.subject: finding for finding in examine_dagster(home, lambda _: url)}


def test_the_projects_own_configuration_needs_no_fix(tmp_path: Path, config: dict[str, Any]) -> None:
    found = _examine(tmp_path, config)
    assert [finding for finding in found.values() if finding.fix] == []
    assert found["Dagster's storage"].state == "SQLite in DAGSTER_HOME"


def test_without_a_home_it_is_said_and_is_no_fault() -> None:
    (found,) = examine_dagster(None, lambda _: None)
    assert "forgotten" in found.state
    assert found.fix == ""


def test_a_home_that_is_not_there_or_has_no_configuration_is_named(tmp_path: Path) -> None:
    assert _examine(tmp_path / "nowhere")["DAGSTER_HOME"].fix
    assert "deploy/" in _examine(tmp_path)["dagster.yaml"].fix


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("concurrency", "pools", "granularity"), "op", "concurrency.pools.granularity is op, must be run"),
        (("concurrency", "pools", "default_limit"), 3, "default_limit is 3, must be 1"),
        (("run_monitoring", "enabled"), False, "run_monitoring.enabled is False, must be True"),
        (("run_retries",), None, "run_retries.enabled is None, must be True"),
    ],
)
def test_a_setting_that_the_pipeline_counts_on_is_named_with_its_reason(
    tmp_path: Path, config: dict[str, Any], place: tuple[str, ...], value: object, said: str
) -> None:
    inner = config
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    found = _examine(tmp_path, config)["dagster.yaml"]
    assert said in found.state
    assert "else" in found.state
    assert found.fix


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        (None, "set DAGSTER_PG_URL"),
        ("postgresql://dagster:secret@127.0.0.1/dagster", "must begin with postgresql+psycopg2://"),
        ("secret", "must begin with postgresql+psycopg2://"),
        ("postgresql+psycopg2://dagster:secret@127.0.0.1:1/dagster", "start it, or mend the URL"),
        ("postgresql+psycopg2://dagster:secret/secret@127.0.0.1:1/dagster", "a / before the @ as %2F"),
    ],
)
def test_a_database_that_dagster_cannot_use_is_named_without_its_password(
    tmp_path: Path, project: Path, url: str | None, fix: str
) -> None:
    config = yaml.safe_load((project / "deploy/postgres/dagster.yaml").read_text())
    found = _examine(tmp_path, config, url)["Dagster's storage"]
    assert fix in found.fix
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("settings", "said", "is_fault"),
    [
        ({"postgres_db": {"hostname": "db", "password": {"env": "PGPASSWORD"}}}, "by postgres_db", False),
        (None, "without an address", True),
        ({"postgres_url": None}, "without an address", True),
    ],
)
def test_a_database_that_is_named_in_another_way_or_not_at_all_is_told(
    tmp_path: Path, config: dict[str, Any], settings: object, said: str, is_fault: bool
) -> None:
    found = _examine(tmp_path, config | {"storage": {"postgres": settings}})["Dagster's storage"]
    assert said in found.state
    assert bool(found.fix) == is_fault


def _start(proc: Path, process: int, *words: str, network: str = "own") -> None:
    """A process as /proc shows it."""
    (proc / f"{process}/ns").mkdir(parents=True)
    (proc / f"{process}/cmdline").write_bytes(b"\0".join(word.encode() for word in words) + b"\0")
    (proc / f"{process}/ns/net").symlink_to(network)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/net").symlink_to("own")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "is_open"),
    [
        (("python", "/venv/bin/dagster-webserver", "-h", ANYBODY), True),
        (("python", "-m", "dagster_webserver", "--port", "3000", "--host", "192.168.1.2"), True),
        (("python", "/venv/bin/dagster", "dev", "--host=::"), True),
        (("python", "-m", "dagster_webserver", "--host", "127.0.0.1"), False),
        (("python", "-m", "dagster_webserver", "-h", "localhost"), False),
        (("python", "-m", "dagster_webserver"), False),
        (("python", "/venv/bin/dagster", "api", "grpc", "--host", ANYBODY, "--port", "4000"), True),
        (("python", "-m", "dagster", "api", "grpc", "-h", ANYBODY), True),
        (("python", "-m", "dagster", "api", "grpc", "--socket", "/run/ft_pipeline/code.sock"), False),
        (("nginx", "--host", ANYBODY), False),
    ],
)
def test_a_page_that_other_machines_reach_is_named(proc: Path, words: tuple[str, ...], is_open: bool) -> None:
    _start(proc, 4711, *words)
    found = examine_servers(proc)
    assert bool(found.fix) == is_open
    assert ("process 4711 listens on" in found.state) == is_open


def test_the_page_of_a_container_is_the_containers(proc: Path) -> None:
    _start(proc, 4711, "python", "-m", "dagster_webserver", "--host", ANYBODY, network="another")
    assert examine_servers(proc).state.startswith("0 running")


def test_within_a_container_its_ports_decide(proc: Path) -> None:
    server = ("dagster", "api", "grpc", "--host", ANYBODY)
    _start(proc, 1, "/dev/init", "--", *server)
    _start(proc, 6, *server)
    found = examine_servers(proc)
    assert found.fix == ""
    assert f"process 1 listens on {ANYBODY}; process 6 listens on {ANYBODY}, in a container" in found.state


def test_a_first_process_that_others_do_not_reach_excuses_no_other(proc: Path) -> None:
    _start(proc, 1, "dagster", "api", "grpc", "--host", "127.0.0.1")
    _start(proc, 10, "dagster", "api", "grpc", "--host", ANYBODY)
    assert examine_servers(proc).fix


def test_processes_that_cannot_be_looked_at_are_counted(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _start(proc, 10, "python", "-m", "dagster_webserver")
    _start(proc, 4711, "python", "-m", "dagster_webserver", "--host", ANYBODY)
    _start(proc, 4712, "secret")
    read_bytes, readlink = Path.read_bytes, Path.readlink

    def read(path: Path) -> bytes:
        if "4712" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    def follow(path: Path) -> Path:
        if "4711" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return readlink(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    monkeypatch.setattr(Path, "readlink", follow)
    state = examine_servers(proc).state
    assert "1 running, none of them open" in state
    assert f"2 of other users cannot be looked at (process 4711, which listens on {ANYBODY}; 4712)" in state


def test_it_looks_at_this_machine_itself() -> None:
    assert "running" in examine_servers().state or "listens" in examine_servers().state
