"""The commands of the systemd units, as systemd would start them: code server, daemon and page, each by itself."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ft_pipeline_tests.dagster_server import DagsterServer, answers, find_port, wait_until
from ft_pipeline_tests.deploy.test_variants import CHECKOUT
from ft_pipeline_tests.user_project import make_project

pytestmark = pytest.mark.slow
_SOCKET = "/run/ft_pipeline/code.sock"


@pytest.fixture
def root(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own project."""
    return make_project(tmp_path / "root", tiny_base, monkeypatch)


@contextmanager
def _start(words: list[str], home: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            words,
            cwd=home,
            env=os.environ | {"DAGSTER_HOME": str(home)},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # KillMode=control-group
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def _command(project: Path, name: str, socket: Path, port: int) -> list[str]:
    text = (project / f"deploy/systemd/ft_pipeline-{name}.service").read_text()
    (command,) = re.findall(r"^ExecStart=(.*)$", text, re.M)
    for there, here in ((CHECKOUT, str(project)), (_SOCKET, str(socket)), ("--port 3000", f"--port {port}")):
        command = command.replace(there, here)
    return shlex.split(command.replace("deploy/systemd/workspace.yaml", "workspace.yaml"))


@dataclass(frozen=True)
class Services:
    """The three of a machine, and what is asked of them over the page."""

    started: dict[str, subprocess.Popen[bytes]]
    server: DagsterServer


@pytest.fixture
def services(root: Path, project: Path) -> Iterator[Services]:
    """All of them under way; they are gone afterwards, and so is every process that they have started."""
    home, port = root.parent / "home", find_port()
    home.mkdir()
    shutil.copy(project / "dagster.yaml", home)
    server = DagsterServer(f"http://127.0.0.1:{port}", home)
    with ExitStack() as stack:
        # The path of a socket has at most 107 characters.
        socket = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "code.sock"
        workspace = (project / "deploy/systemd/workspace.yaml").read_text().replace(_SOCKET, str(socket))
        (home / "workspace.yaml").write_text(workspace)
        environment = os.environ | {"DAGSTER_HOME": str(home)}
        dagster = str(project / ".venv/bin/dagster")
        subprocess.run([dagster, "instance", "concurrency", "set", "gpu", "1"], cwd=home, env=environment, check=True)
        started = {}
        for name in ("code", "daemon", "page"):
            log = home / f"{name}.log"
            started[name] = stack.enter_context(_start(_command(project, name, socket, port), home, log))
            if name == "code":
                wait_until(socket.exists, 60, log.read_text)
        wait_until(lambda: answers(server), 60, (home / "page.log").read_text)
        yield Services(started, server)
    wait_until(lambda: not server.list_processes(), 10, server.list_processes)


def test_a_run_that_the_daemon_starts_goes_on_in_the_code_server(services: Services) -> None:
    run_id = services.server.launch("raw_dataset")
    wait_until(lambda: services.server.read_status(run_id) == "SUCCESS", 90, lambda: services.server.read_log(run_id))
    processes = services.server.list_processes()
    assert {process.pid for process in services.started.values()} <= processes.keys()


@pytest.mark.long
def test_what_stops_the_code_server_and_its_group_stops_a_training_at_a_checkpoint(
    services: Services, root: Path
) -> None:
    """As systemd does it to all of the unit, and Docker's init by TINI_KILL_PROCESS_GROUP to the service `code`."""
    recipe = yaml.safe_load((root / "recipes/mine.yaml").read_text())
    recipe["training"]["epochs"] = 100
    (root / "recipes/mine.yaml").write_text(yaml.safe_dump(recipe))
    server, code = services.server, services.started["code"]
    run_id = server.launch("raw_dataset", "validated_dataset", "trained_adapter")
    wait_until(lambda: "tokens_per_second" in str(server.read_log(run_id)), 180, lambda: server.read_log(run_id))
    os.killpg(code.pid, signal.SIGTERM)
    assert code.wait(90) == 0
    assert list((root / "data/artifacts/_checkpoints").glob("trained_adapter-*/step-*/checkpoint.json"))
    wait_until(lambda: server.read_status(run_id) in {"FAILURE", "CANCELED"}, 60, lambda: server.read_log(run_id))
