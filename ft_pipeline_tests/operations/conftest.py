"""A machine with published models, a backup of it, and a machine with nothing on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.operations.backup import Backup, back_up
from ft_pipeline_tests.publishing.small_models import Publishing


@pytest.fixture
def before(tmp_path: Path) -> Publishing:
    """A machine on which a model was published, then a better one, and one was rejected."""
    machine = Publishing(tmp_path / "before")
    machine.publish(1)
    machine.publish(2)
    machine.reject(3)
    return machine


@pytest.fixture
def after(tmp_path: Path) -> Publishing:
    """Another machine, with nothing on it."""
    return Publishing(tmp_path / "somewhere" / "else")


@pytest.fixture
def saved(before: Publishing, tmp_path: Path) -> Backup:
    return back_up(before.store, tmp_path / "backups")


def list_files(store: ArtifactStore) -> dict[str, bytes]:
    """Artifacts, aliases and records of a store."""
    files = [*store.root.glob("[a-z]*/**/*"), *store.root.glob("_aliases/[!.]*.json"), *store.root.glob("_runs/*.json")]
    return {str(path.relative_to(store.root)): path.read_bytes() for path in files if path.is_file()}
