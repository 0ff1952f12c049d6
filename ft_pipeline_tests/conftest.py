"""Fixtures that many tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_pipeline_tests.tiny_model import make_base

PROJECT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def project() -> Path:
    """The checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of some 100,000 random parameters."""
    return make_base(tmp_path_factory.mktemp("tiny") / "base")
