"""Fixtures that many tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from ft_pipeline_tests.tiny_model import make_base

# A test machine may be slow at any moment; that is no failure.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

PROJECT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """The pictures of the docs are taken by a test (docs/ui.md)."""
    parser.addoption("--screenshots", metavar="FOLDER", help="where the demo's pictures of Dagster's page go")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes first, or it would run alone at the end while the other processes have nothing to do."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def project() -> Path:
    """The checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of some 100,000 random parameters."""
    return make_base(tmp_path_factory.mktemp("tiny") / "base")
