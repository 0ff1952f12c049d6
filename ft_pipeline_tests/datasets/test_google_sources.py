"""Sources on Google Cloud Storage, from an emulator of it on loopback."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.datasets.sources import SourceFile, find_sources, open_source
from ft_pipeline.errors import SourceError
from ft_pipeline.recipe import DatasetSection


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import gcsfs
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="rows")
    server.start()
    host, port = server._api._httpd.server_address
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{host}:{port}")
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield gcsfs.GCSFileSystem(token="anon")
    gcsfs.GCSFileSystem.clear_instance_cache()
    server.stop()


def _find(root: Path, *sources: str) -> tuple[SourceFile, ...]:
    section = DatasetSection.model_validate({"sources": sources, "allowed_roots": ["gs://rows"]})
    return find_sources(section, root, root / "downloads")


def _read(source: SourceFile) -> bytes:
    with open_source(source.path, source.name) as stream:
        return stream.read()


def test_files_folders_and_globs_are_found_and_read(bucket: Any, tmp_path: Path) -> None:
    bucket.pipe({"rows/a/x.jsonl": b"x\n", "rows/a/y.jsonl.gz": gzip.compress(b"y\n"), "rows/a/notes.md": b"-"})
    for wanted in ("gs://rows/a", "gs://rows/a/*.jsonl*"):
        found = {source.name: _read(source) for source in _find(tmp_path, wanted)}
        assert found == {"gs://rows/a/x.jsonl": b"x\n", "gs://rows/a/y.jsonl.gz": b"y\n"}


def test_a_changed_object_is_fetched_again(bucket: Any, tmp_path: Path) -> None:
    bucket.pipe("rows/same.jsonl", b"old\n")
    (first,) = _find(tmp_path, "gs://rows/same.jsonl")
    bucket.pipe("rows/same.jsonl", b"new\n")
    (second,) = _find(tmp_path, "gs://rows/same.jsonl")
    assert (_read(first), _read(second)) == (b"old\n", b"new\n")


@pytest.mark.usefixtures("bucket")
def test_an_object_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"gs://rows/none\.jsonl: cannot be fetched: not found"):
        _find(tmp_path, "gs://rows/none.jsonl")
