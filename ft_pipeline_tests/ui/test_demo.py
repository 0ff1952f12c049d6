"""The demo from beginning to end through Dagster's page; with `--screenshots` it takes the pictures of docs/ui.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from ft_pipeline.publishing.alias import alias_folder, read_champion
from ft_pipeline_tests.dagster_server import DagsterServer, serve
from ft_pipeline_tests.ui.dagster_page import DagsterPage, open_page
from ft_pipeline_tests.ui.reports import open_offline

pytestmark = [pytest.mark.slow, pytest.mark.long]
# The demo takes four minutes on two idle cores.
_PATIENCE_SECONDS = 3600


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what the demo makes."""
    return tmp_path_factory.mktemp("demo") / "artifacts"


@pytest.fixture(scope="module")
def server(store: Path, project: Path) -> Iterator[DagsterServer]:
    """Dagster's servers on the checkout."""
    settings = {"ARTIFACTS": str(store), "LOCK_DIR": str(store.parent / "locks"), "RECIPE": "demo", "DEVICE": "cpu"}
    environment = {f"FT_PIPELINE_{name}": value for name, value in settings.items()}
    with serve(store.parent / "home", project, environment) as running:
        yield running


@pytest.fixture
def page(browser: Browser, server: DagsterServer, pictures: Path | None) -> Iterator[DagsterPage]:
    """A window on it."""
    with open_page(browser, server.url, pictures) as opened:
        yield opened


def test_the_demo_is_cancelled_goes_on_and_is_published(page: DagsterPage, server: DagsterServer, store: Path) -> None:
    page.open_graph()
    first = page.materialize_all()
    page.open_run(first)
    page.wait_for_progress(_PATIENCE_SECONDS, lines=4)
    page.take_picture("run")

    page.open_graph()
    launchpad = page.open_launchpad()
    page.write_overrides(launchpad, {"training.epochs": 1})
    page.take_picture("launchpad")
    second = page.launch_from(launchpad)
    page.wait_for_state("Queued", _PATIENCE_SECONDS)
    page.open_runs()
    page.take_picture("queue")
    assert server.read_status(second) == "QUEUED"
    page.open_run(second)
    page.terminate(_PATIENCE_SECONDS)

    page.open_run(first)
    dialog = page.open_termination()
    page.take_picture("terminate")
    page.confirm_termination(dialog, _PATIENCE_SECONDS)
    third = page.execute_again()
    page.wait_for_state("Success", _PATIENCE_SECONDS)
    assert any("goes on after step" in said for said in server.read_log(third))
    assert read_champion(alias_folder(store), "demo") is not None


def test_the_graph_is_green(page: DagsterPage) -> None:
    page.page.set_viewport_size({"width": 2000, "height": 640})  # its words are to be read in the picture
    page.open_graph()
    page.page.get_by_role("img", name="run_success").nth(6).wait_for()
    page.take_picture("graph")


def test_the_loss_is_plotted(page: DagsterPage) -> None:
    page.open_asset("trained_adapter")
    assert page.open_plot("plot: loss").evaluate("image => image.naturalWidth") > 300
    page.take_picture("loss")


def test_the_evaluation_shows_its_figures_its_plots_and_its_checks(page: DagsterPage) -> None:
    page.open_asset("evaluation_report")
    page.find_value("exact_match").scroll_into_view_if_needed()
    page.take_picture("evaluation")
    page.open_checks("evaluation_report", "exact_match_vs_champion")
    page.page.get_by_text("better than base").first.wait_for()
    page.take_picture("checks")


def test_the_report_opens_without_a_network(browser: Browser, store: Path, pictures: Path | None) -> None:
    (report,) = store.glob("evaluation_report/*/report.html")
    opened = open_offline(browser, report, pictures / "report.png" if pictures else None)
    assert (opened.asked_for, opened.faults) == ([], [])
    assert len(opened.plots) == 5
    assert min(opened.plots.values()) > 300
