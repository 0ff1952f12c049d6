"""Undisturbed runs, made once."""

from __future__ import annotations

import pytest

from ft_pipeline_tests.chaos.undisturbed import Reference, make_reference


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A first run, whose model is champion, and a second one on more data."""
    return make_reference(tmp_path_factory.mktemp("chaos") / "reference")
