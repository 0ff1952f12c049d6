"""A device that somebody holds, as a user of Dagster's UI sees it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ft_pipeline.definitions import defs
from ft_pipeline.finetuning.lease import hold_device
from ft_pipeline_tests.dagster_server import DagsterServer, serve, wait_until
from ft_pipeline_tests.user_project import make_project

pytestmark = [pytest.mark.slow, pytest.mark.long]
# How often the daemon looks at its queue, if dagster.yaml does not say otherwise.
_DEQUEUE_SECONDS = 5.0


@pytest.fixture
def locks(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of locks of a user's own project whose data set is ready to be trained on."""
    root = make_project(tmp_path / "root", tiny_base, monkeypatch)
    with dg.DagsterInstance.ephemeral() as instance:
        upstream = [dg.AssetKey("raw_dataset"), dg.AssetKey("validated_dataset")]
        defs.resolve_job_def("fine_tune").execute_in_process(asset_selection=upstream, instance=instance)
    return root / "locks"


@pytest.fixture
def server(tmp_path: Path, project: Path, locks: Path) -> Iterator[DagsterServer]:
    """Dagster's servers on that project."""
    with serve(tmp_path / "home", project, {"FT_PIPELINE_LOCK_DIR": str(locks)}) as running:
        yield running


def says(server: DagsterServer, run_id: str, pattern: str) -> bool:
    return any(re.search(pattern, message) for message in server.read_log(run_id))


def test_a_run_says_who_holds_the_device_the_next_is_queued_and_cancelling_the_first_lets_it_begin(
    server: DagsterServer, locks: Path
) -> None:
    held = (
        rf"^waiting for cpu, \d+ s so far: held by a colleague \(process {os.getpid()}\) since 20\d\d-\d\d-\d\dT\S+; "
        "our place in the line: 1$"
    )
    with hold_device("cpu", lock_dir=locks, timeout_seconds=0, holder="a colleague", tell=lambda _: None):
        first = server.launch("trained_adapter")
        wait_until(lambda: says(server, first, held), 40, lambda: server.read_log(first))
        assert server.read_status(first) == "STARTED"

        second = server.launch("trained_adapter")
        time.sleep(2 * _DEQUEUE_SECONDS)
        assert server.read_status(second) == "QUEUED"

        processes = server.list_processes_of(first)
        assert any("ft_pipeline.processes.child" in words for words in processes.values()), processes
        asked_at = time.monotonic()
        server.terminate(first)
        wait_until(lambda: server.read_status(first) == "CANCELED", 20, lambda: server.read_log(first))
        cancelled_after = time.monotonic() - asked_at
        assert cancelled_after < 2, server.read_log(first)
        wait_until(lambda: not processes.keys() & server.list_processes().keys(), 2, lambda: processes)

        wait_until(lambda: says(server, second, held), 40, lambda: server.read_log(second))
        assert server.read_status(second) == "STARTED"
