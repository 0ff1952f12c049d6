"""Undisturbed runs, made once."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ft_pipeline_tests.chaos.undisturbed import Reference, make_reference


@pytest.fixture(scope="session")
def pins(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Every process imports the same libraries: their bytecode is kept, whatever the environment says."""
    folder = tmp_path_factory.mktemp("bytecode")
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder)}


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, pins: Mapping[str, str]) -> Reference:
    """A first run, whose model is champion, and a second one on more data."""
    return make_reference(tmp_path_factory.mktemp("chaos") / "reference", pins)
