"""A report as a browser shows it that has no network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Route


@dataclass
class OpenedReport:
    """What is seen of it.

    Attributes:
        text: Its words.
        plots: By what they are called, how wide they are drawn, in pixels.
        asked_for: Addresses beyond the file itself that it asked for.
        faults: What its scripts complain of.
    """

    text: str = ""
    plots: dict[str, float] = field(default_factory=dict)
    asked_for: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def open_offline(browser: Browser, report: Path, picture: Path | None = None) -> OpenedReport:
    """Open it from the disk; whatever else it asks for is written down and refused.

    Args:
        browser: Which one.
        report: The HTML file.
        picture: Where a picture of it goes.
    """
    address, opened = report.as_uri(), OpenedReport()

    def allow_only_itself(route: Route) -> None:
        if route.request.url == address:
            route.continue_()
        else:
            opened.asked_for.append(route.request.url)
            route.abort()

    page = browser.new_page(viewport={"width": 1280, "height": 800})
    try:
        page.on("pageerror", lambda error: opened.faults.append(str(error)))
        page.route(lambda url: not url.startswith("data:"), allow_only_itself)
        page.goto(address)
        opened.text = page.locator("body").inner_text()
        for plot in page.get_by_role("img").all():
            box = plot.bounding_box()
            opened.plots[plot.get_attribute("aria-label") or ""] = box["width"] if box else 0
        if picture:
            page.screenshot(path=picture)
    finally:
        page.close()
    return opened
