"""Dagster's page in headless Chromium, used as a person uses it: by what its buttons and links say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from ft_pipeline_tests.needs import need_program

_SIZE = {"width": 1280, "height": 800}
# For what the page itself does. A machine may be slow; how long a run takes is the caller's to say.
_PATIENCE_SECONDS = 60
_RUN_ID_CHARS = 36
_PROGRESS = r"\d+/\d+ +loss=.*eta_seconds="


class DagsterPage:
    """A window on a running Dagster.

    Args:
        page: Chromium's.
        url: Of the webserver.
        pictures: Folder for what `take_picture` takes; None: none are taken.
    """

    def __init__(self, page: Page, url: str, pictures: Path | None = None) -> None:
        page.set_default_timeout(_PATIENCE_SECONDS * 1000)
        self.page = page
        self._url = url
        self._pictures = pictures

    def open_graph(self) -> None:
        """The graph of all assets."""
        self.page.goto(f"{self._url}/asset-groups")
        self.page.get_by_role("button", name="Materialize all").wait_for()

    def materialize_all(self) -> str:
        """From the graph: launch a run of everything; its id."""
        self.page.get_by_role("button", name="Materialize all").click()
        self.page.get_by_text("Launched run").wait_for()
        return self._follow(self.page.get_by_role("link", name="View", exact=True))

    def open_launchpad(self) -> Locator:
        """From the graph or an asset: what its button `Materialize` has beside it."""
        self.page.get_by_role("button").filter(has=self.page.get_by_role("img", name="arrow_drop_down")).first.click()
        self.page.get_by_role("menuitem", name="Open launchpad").click()
        launchpad = self.page.get_by_role("dialog").filter(has_text="Launchpad (configure")
        expect(launchpad).to_contain_text("No errors")
        return launchpad

    def launch_with(self, overrides: Mapping[str, Any]) -> str:
        """From the graph or an asset: a run for which these fields of the recipe are others; its id."""
        launchpad = self.open_launchpad()
        self.write_overrides(launchpad, overrides)
        return self.launch_from(launchpad)

    def launch_from(self, launchpad: Locator) -> str:
        """In the launchpad: launch the run; its id."""
        return self._follow(launchpad.get_by_role("button", name="Materialize"))

    def write_overrides(self, launchpad: Locator, overrides: Mapping[str, Any]) -> None:
        """Replace the configuration in the launchpad."""
        fields = "".join(f"\n        {name}: {json.dumps(value)}" for name, value in overrides.items())
        launchpad.locator(".CodeMirror").click()
        self.page.keyboard.press("ControlOrMeta+A")
        self.page.keyboard.insert_text(f"resources:\n  pipeline:\n    config:\n      overrides:{fields}\n")
        expect(launchpad).to_contain_text("No errors")

    def wait_for_progress(self, seconds: float, lines: int = 1) -> str:
        """On a run's page: as many lines that say how far the training is; the last of them."""
        told = self.page.get_by_text(re.compile(_PROGRESS)).nth(lines - 1)
        told.wait_for(timeout=seconds * 1000)
        return told.inner_text()

    def wait_for_words(self, words: str, seconds: float) -> None:
        """On a run's page: what its log says."""
        self.page.get_by_text(words).first.wait_for(timeout=seconds * 1000)

    def wait_for_state(self, state: str, seconds: float) -> None:
        """On a run's page: its state beside its name."""
        self.page.get_by_text(state, exact=True).first.wait_for(timeout=seconds * 1000)

    def open_termination(self) -> Locator:
        """On a run's page: the dialog that its button `Terminate` opens."""
        self.page.get_by_role("button", name="Terminate").click()
        dialog = self.page.get_by_role("dialog").filter(has_text="Terminate runs")
        dialog.get_by_role("button", name="Terminate 1 run").wait_for()
        return dialog

    def terminate(self, seconds: float) -> None:
        """On a run's page: cancel it, and see that it is."""
        self.confirm_termination(self.open_termination(), seconds)

    def confirm_termination(self, dialog: Locator, seconds: float) -> None:
        """In the dialog: what it asks for, without force."""
        dialog.get_by_role("button", name="Terminate 1 run").click()
        self.wait_for_state("Canceled", seconds)
        expect(dialog).to_be_hidden()  # it goes with the button, once the run has ended

    def execute_again(self) -> str:
        """On a run's page: the same once more; the new run's id."""
        return self._follow(self.page.get_by_role("button", name="Re-execute all"))

    def open_run(self, run_id: str) -> None:
        """A run's page."""
        self.page.goto(f"{self._url}/runs/{run_id}")

    def open_asset(self, name: str) -> None:
        """The page of an asset that was materialized."""
        self.page.goto(f"{self._url}/assets/{name}")
        self.find_value("path").wait_for()

    def find_value(self, key: str) -> Locator:
        """On an asset's page: the row of a piece of metadata."""
        found = self.page.get_by_role("row").filter(has=self.page.get_by_role("cell", name=key, exact=True))
        return found.first  # tables among the values may have the same words

    def open_plot(self, key: str) -> Locator:
        """On an asset's page: a plot of its metadata, large."""
        self.find_value(key).get_by_text("[Show Markdown]").click()
        plot = self.page.get_by_role("dialog").locator("img")
        plot.wait_for()
        return plot

    def open_checks(self, asset: str, check: str) -> None:
        """The checks of an asset, one of them in full."""
        self.page.goto(f"{self._url}/assets/{asset}?view=checks")
        self.page.get_by_text(check, exact=True).first.click()
        self.page.get_by_text("Latest execution").wait_for()

    def open_runs(self) -> None:
        """The list of all runs."""
        self.page.goto(f"{self._url}/runs")
        self.page.get_by_role("link", name="View", exact=True).first.wait_for()

    def take_picture(self, name: str) -> None:
        """For the docs, where pictures are wanted."""
        if self._pictures:
            self.page.wait_for_timeout(1500)  # what moves comes to rest
            self.page.screenshot(path=self._pictures / f"{name}.png")

    def _follow(self, opens_a_run: Locator) -> str:
        """Click what leads to the page of a run; the run's id."""
        before = self.page.url
        opens_a_run.click()
        self.page.wait_for_url(lambda url: "/runs/" in url and url != before)
        return self.page.url.partition("/runs/")[2][:_RUN_ID_CHARS]


@contextmanager
def start_browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    chromium = need_program("chromium", install="apt-get install chromium")
    expect.set_options(timeout=_PATIENCE_SECONDS * 1000)
    with sync_playwright() as playwright:
        # Its sandbox does not work for root.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Browser, url: str, pictures: Path | None = None) -> Iterator[DagsterPage]:
    """A window on the Dagster at this address."""
    page = browser.new_page(viewport=_SIZE)  # type: ignore[arg-type]
    try:
        yield DagsterPage(page, url, pictures)
    finally:
        page.close()
