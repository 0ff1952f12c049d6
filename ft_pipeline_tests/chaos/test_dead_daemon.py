"""Dagster's daemon and a run are killed while another run is queued; after a restart nobody has to do anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.file_lock import lock_file
from ft_pipeline.recipe_file import find_recipe, load_recipe
from ft_pipeline.run import Run
from ft_pipeline_tests.dagster_server import list_processes, serve, wait_until
from ft_pipeline_tests.user_project import make_project

pytestmark = [pytest.mark.slow, pytest.mark.long]
# The second of these is in the pool; the first waits for whoever builds it.
_SELECTION = ("raw_dataset", "trained_adapter")
_BEGUN, _WAITS = r"Executing steps in process", "waits for another process that builds raw_dataset"


@pytest.fixture
def root(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_project(tmp_path / "root", tiny_base, monkeypatch)


@pytest.fixture
def held(root: Path) -> Iterator[None]:
    """Nobody can build the raw data set: a run stays where it is, and costs nothing."""
    store = ArtifactStore(root / "data/artifacts")
    key = Run(lambda: load_recipe(find_recipe("mine", root)), root, store.root).lineage.raw_dataset
    with lock_file(store.root / "_locks" / f"{key.asset}-{key.fingerprint}"):
        yield


def _start_run_of_the_command_line(home: Path, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "--select", ",".join(_SELECTION)]
    with (folder / "cli.log").open("wb") as log:
        return subprocess.Popen(
            [*command, "-m", "ft_pipeline.definitions"],
            cwd=folder,
            env=os.environ | {"DAGSTER_HOME": str(home)},
            stdout=log,
            stderr=log,
        )


@pytest.mark.usefixtures("held")
def test_the_killed_run_is_ended_and_the_queued_one_starts_once(root: Path, project: Path, tmp_path: Path) -> None:
    home, log = tmp_path / "home", root / "cli.log"
    with serve(home, project, {}) as server:
        first = _start_run_of_the_command_line(home, root)
        wait_until(lambda: _WAITS in log.read_text(), 120, log.read_text)
        (killed,) = server.ask("{ runsOrError { ... on Runs { results { runId } } } }")["runsOrError"]["results"]
        second = server.launch(*_SELECTION)
        assert server.read_status(second) in ("QUEUED", "NOT_STARTED")
        server.kill_daemon()
    first.kill()
    first.wait()
    wait_until(lambda: not list_processes(home), 60, lambda: list_processes(home))

    with serve(home, project, {}) as server:
        assert server.read_status(killed["runId"]) == "STARTED", "nobody could say that it has ended"
        wait_until(lambda: server.read_status(second) == "STARTED", 240, lambda: server.read_log(second))
        assert server.read_status(killed["runId"]) == "FAILURE"
        assert "The run's process is gone" in "\n".join(server.read_log(killed["runId"]))
        wait_until(lambda: _WAITS in "\n".join(server.read_log(second)), 120, lambda: server.read_log(second))
        said = "\n".join(server.read_log(second))
        assert len(re.findall(_BEGUN, said)) == 1, said
