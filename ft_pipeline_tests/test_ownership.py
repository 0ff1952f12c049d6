from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from ft_pipeline.__main__ import main
from ft_pipeline.defs.history import main as remove_history
from ft_pipeline.errors import ResourceError


@pytest.mark.parametrize(
    "words", [["gc"], ["gc", "--dry-run"], ["backup", "{}/backups"], ["restore", "{}/backup.tar"], ["rollback"]]
)
def test_root_writes_nothing_into_the_store_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    if os.geteuid() == 0:
        os.chown(store, 65534, 65534)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("FT_PIPELINE_ARTIFACTS", str(store))
    done = CliRunner().invoke(main, [word.format(tmp_path) for word in words])
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    assert isinstance(CliRunner().invoke(remove_history).exception, ResourceError)
    assert isinstance(done.exception, ResourceError)
    assert "runuser -u" in str(done.exception)
    assert list(store.iterdir()) == []
