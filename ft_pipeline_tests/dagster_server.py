"""Dagster as `make dev` starts it, with its webserver and daemon, driven as its UI drives it: by GraphQL."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": "ft_pipeline.definitions"}
_LAUNCH = """mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_STATUS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
_LOG = """query ($id: ID!) { logsForRun(runId: $id) {
    ... on EventConnection { events { ... on MessageEvent { message } } } } }"""
# What the button `Terminate` of a run's page sends.
_TERMINATE = "mutation ($id: String!) { terminateRun(runId: $id, terminatePolicy: SAFE_TERMINATE) { __typename } }"
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class DagsterServer:
    """A running `dagster dev`.

    Attributes:
        url: Of its webserver.
        home: Its DAGSTER_HOME, which all its processes have in their environment.
    """

    url: str
    home: Path

    def ask(self, query: str, **variables: Any) -> Any:
        """The data that a GraphQL query gives."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            found = json.load(answer)
        assert "errors" not in found, found
        return found["data"]

    def launch(self, *assets: str) -> str:
        """Launch a run that makes these assets; its id."""
        selector = REPOSITORY | {"pipelineName": "__ASSET_JOB", "assetSelection": [{"path": [name]} for name in assets]}
        launched = self.ask(_LAUNCH, params={"selector": selector, "mode": "default"})["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def terminate(self, run_id: str) -> None:
        """Ask for the end of a run, and leave it its time to stop."""
        answer = self.ask(_TERMINATE, id=run_id)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def kill_daemon(self) -> None:
        """SIGKILL of the daemon; the webserver and the code server go on."""
        every = self.list_processes()
        daemons = [process for process, words in every.items() if "dagster._daemon run" in words]
        assert daemons, every
        for daemon in daemons:
            os.kill(daemon, signal.SIGKILL)

    def read_status(self, run_id: str) -> str:
        """What the list of runs says of it."""
        return str(self.ask(_STATUS, id=run_id)["runOrError"]["status"])

    def read_log(self, run_id: str) -> list[str]:
        """The messages of a run's log."""
        return [event["message"] for event in self.ask(_LOG, id=run_id)["logsForRun"]["events"]]

    def list_processes(self) -> dict[int, str]:
        """Command lines of all living processes of this instance by id; its runs' and their stages' are among them."""
        return list_processes(self.home)

    def list_processes_of(self, run_id: str) -> dict[int, str]:
        """The same of one run that is going on: its own process and all that come from it."""
        said = "\n".join(self.read_log(run_id))
        own = re.search(r"Executing steps in process \(pid: (\d+)\)", said)
        assert own, said
        every = self.list_processes()
        parents = {process: _read_parent(process) for process in every}
        family, before = {int(own[1])}, 0
        while len(family) != before:
            before = len(family)
            family |= {process for process, parent in parents.items() if parent in family}
        return {process: words for process, words in every.items() if process in family}


def list_processes(home: Path) -> dict[int, str]:
    """Command lines by id of all living processes whose DAGSTER_HOME this is."""
    mark, found = f"DAGSTER_HOME={home}".encode(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile, or is another user's
            if mark in (folder / "environ").read_bytes().split(b"\0"):  # a zombie has none
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def wait_until(holds: Callable[[], Any], seconds: float, what: Callable[[], Any]) -> float:
    """Wait for something to hold.

    Returns:
        How many seconds it took.

    Raises:
        AssertionError: it does not in time; the message is what `what` says then.
    """
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds, what()
        time.sleep(_POLL_SECONDS)
    return time.monotonic() - started


@contextmanager
def serve(
    home: Path, project: Path, environment: Mapping[str, str], config: str = "dagster.yaml"
) -> Iterator[DagsterServer]:
    """Start the project's definitions on a free port of 127.0.0.1, and end all of it afterwards.

    The instance is a fresh one, or that of an earlier server on the same home.
    """
    home.mkdir(exist_ok=True)
    shutil.copy(project / config, home / "dagster.yaml")
    shutil.copy(project / "workspace.yaml", home)
    every = {**os.environ, **environment, "DAGSTER_HOME": str(home)}
    dagster = [sys.executable, "-m", "dagster"]
    # As `make` does: nothing else may make the database.
    subprocess.run([*dagster, "instance", "concurrency", "set", "gpu", "1"], cwd=home, env=every, check=True)
    port = find_port()
    dev = [sys.executable, "-m", "ft_pipeline.defs.dev"]
    command = [*dev, "--host", "127.0.0.1", "--port", str(port), "--workspace", "workspace.yaml"]
    log = home / "dev.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=home, env=every, stdout=out, stderr=out, start_new_session=True)
    server = DagsterServer(f"http://127.0.0.1:{port}", home)
    try:
        wait_until(lambda: process.poll() is not None or answers(server), 60, log.read_text)
        assert process.poll() is None, log.read_text()
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        for left in server.list_processes():
            with suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
        process.wait()


def _read_parent(process: int) -> int:
    with suppress(OSError):
        # After the command's name, which may hold anything: state, parent.
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def answers(server: DagsterServer) -> bool:
    """Whether the webserver has loaded the definitions."""
    with suppress(urllib.error.URLError, ConnectionError):
        query = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"
        return bool(server.ask(query)["repositoriesOrError"].get("nodes"))
    return False


def find_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
