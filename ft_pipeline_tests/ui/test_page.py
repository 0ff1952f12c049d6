"""A user's own small project through Dagster's page: materialize, look, cancel, go on, beside a run of CI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
import yaml
from playwright.sync_api import Browser

from ft_pipeline_tests.ci_run import materialize_command
from ft_pipeline_tests.dagster_server import DagsterServer, serve, wait_until
from ft_pipeline_tests.ui.dagster_page import DagsterPage, open_page
from ft_pipeline_tests.ui.reports import open_offline
from ft_pipeline_tests.user_project import EASY_EVALUATION, RECIPE, make_project

pytestmark = pytest.mark.slow
# Nothing here takes a minute on an idle machine.
_PATIENCE_SECONDS = 600
# Long enough to be cancelled; what is cancelled early is not lost.
_LONGER = {"training.epochs": 20, "training.execution.checkpoint_minutes": 0}


@dataclass(frozen=True)
class Dagster:
    """A user's project, and Dagster's servers on it."""

    root: Path
    server: DagsterServer


@pytest.fixture(scope="module")
def dagster(tmp_path_factory: pytest.TempPathFactory, project: Path, tiny_base: Path) -> Iterator[Dagster]:
    """All tests of this file work on the same project, in their order."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = make_project(folder / "root", tiny_base, monkeypatch)
        (root / "recipes/mine.yaml").write_text(yaml.safe_dump(RECIPE | {"evaluation": EASY_EVALUATION}))
        with serve(folder / "home", project, {}) as server:
            yield Dagster(root, server)


@pytest.fixture
def page(browser: Browser, dagster: Dagster) -> Iterator[DagsterPage]:
    """A window on it."""
    with open_page(browser, dagster.server.url) as opened:
        yield opened


def test_a_cancelled_training_gives_its_device_to_a_waiting_run_of_ci_and_goes_on_after_it(
    page: DagsterPage, dagster: Dagster, tmp_path: Path, project: Path
) -> None:
    page.open_graph()
    first = page.launch_with(_LONGER)
    page.wait_for_words("training on CPU", _PATIENCE_SECONDS)
    with start_ci(tmp_path, project) as ci:
        waiting = rf"waiting for cpu, .* held by recipe mine, run {first} "
        wait_until(lambda: re.search(waiting, ci.read_log()), _PATIENCE_SECONDS, ci.read_log)
        told = page.wait_for_progress(_PATIENCE_SECONDS)
        assert re.search(r"\d+/\d+ +loss=\S+ .*tokens_per_second=\S+ +eta_seconds=", told)
        (checkpoints,) = (dagster.root / "data/artifacts/_checkpoints").glob("trained_adapter-*")
        page.terminate(_PATIENCE_SECONDS)
        assert list(checkpoints.glob("step-*/checkpoint.json"))
        second = page.execute_again()
        wait_until(lambda: ci.process.poll() is not None, _PATIENCE_SECONDS, ci.read_log)
        assert ci.process.returncode == 0, ci.read_log()
        assert "cpu is ours after" in ci.read_log()
    page.wait_for_state("Success", _PATIENCE_SECONDS)
    assert any(re.match(r"goes on after step \d+ of \d+", said) for said in dagster.server.read_log(second))

    (of_ci,) = read_trainings(ci.home)
    of_first, of_second = read_trainings(dagster.server.home)
    assert of_first.ended < of_ci.began < of_ci.ended < of_second.began


def test_the_loss_is_plotted_on_the_page_of_the_adapter(page: DagsterPage) -> None:
    page.open_asset("trained_adapter")
    assert page.open_plot("plot: loss").evaluate("image => image.naturalWidth") > 300


def test_the_report_that_the_page_names_opens_without_a_network(
    page: DagsterPage, browser: Browser, dagster: Dagster
) -> None:
    page.open_asset("evaluation_report")
    (report,) = (dagster.root / "data/artifacts/evaluation_report").glob("*/report.html")
    assert str(report) in page.find_value("report").inner_text()
    opened = open_offline(browser, report)
    assert (opened.asked_for, opened.faults) == ([], [])
    assert opened.plots["training loss"] > 300
    assert "challenger" in opened.text


@dataclass(frozen=True)
class CiRun:
    """A run of the command line under way, in an instance of its own."""

    process: subprocess.Popen[bytes]
    home: Path
    log: Path

    def read_log(self) -> str:
        """What it has said."""
        return self.log.read_text()


@contextmanager
def start_ci(folder: Path, project: Path) -> Iterator[CiRun]:
    """Have CI train on the same data by another seed, on the same machine."""
    home, log = folder / "ci", folder / "ci.log"
    home.mkdir()
    shutil.copy(project / "dagster.yaml", home)
    command = materialize_command("trained_adapter", {"training.seed": 7})
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=project, env=os.environ | {"DAGSTER_HOME": str(home)}, stdout=out, stderr=out
        )
    try:
        yield CiRun(process, home, log)
    finally:
        process.terminate()
        process.wait()


@dataclass(frozen=True)
class Interval:
    """When a training had the device for certain, in seconds since the epoch."""

    began: float
    ended: float


def read_trainings(home: Path) -> list[Interval]:
    """Of each run of an instance that trained: from its plan, made when the device is its own, to its last word."""
    found = []
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for run in instance.get_runs():
            words = [entry for entry in instance.all_logs(run.run_id) if entry.step_key == "trained_adapter"]
            told = [entry.timestamp for entry in words if re.match(r"training on |\d+/\d+ +loss=", entry.user_message)]
            if told:
                found.append(Interval(min(told), max(told)))
    return sorted(found, key=lambda training: training.began)
