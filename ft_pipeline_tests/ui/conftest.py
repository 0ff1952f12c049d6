"""A browser, and where its pictures go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from ft_pipeline_tests.ui.dagster_page import start_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium; without it the tests are skipped."""
    with start_browser() as running:
        yield running


@pytest.fixture(scope="session")
def pictures(request: pytest.FixtureRequest) -> Path | None:
    """The folder that `--screenshots` names."""
    named = request.config.getoption("screenshots")
    return Path(named).resolve() if named else None
