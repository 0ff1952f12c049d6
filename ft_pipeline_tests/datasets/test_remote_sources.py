from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path

import pytest
from fsspec.registry import _registry

from ft_pipeline.datasets.sources import SourceFile, find_sources, open_source
from ft_pipeline.datasets.sources.urls import is_below, split_url
from ft_pipeline.errors import SourceError
from ft_pipeline.recipe import DatasetSection
from ft_pipeline_tests.s3_server import QUIET, Bucket, bucket, moto_url

__all__ = ["bucket", "moto_url"]

pytestmark = QUIET


def _find(root: Path, *sources: str, allowed: tuple[str, ...] = ("data",)) -> tuple[SourceFile, ...]:
    section = DatasetSection.model_validate({"sources": sources, "allowed_roots": allowed})
    return find_sources(section, root, root / "downloads")


def _read(source: SourceFile) -> bytes:
    with open_source(source.path, source.name) as stream:
        return stream.read()


def test_a_glob_on_s3_gives_the_files_that_match_it(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("glob/a.jsonl", b"a\n")
    bucket.put("glob/b.jsonl.gz", gzip.compress(b"b\n"))
    bucket.put("glob/notes.md", b"no rows")
    found = _find(tmp_path, "s3://rows/glob/*.jsonl*", allowed=("s3://rows/glob",))
    assert {source.name: _read(source) for source in found} == {
        "s3://rows/glob/a.jsonl": b"a\n",
        "s3://rows/glob/b.jsonl.gz": b"b\n",
    }


def test_a_folder_on_s3_gives_all_files_with_a_known_suffix_below_it(bucket: Bucket, tmp_path: Path) -> None:
    for key in ("dir/a.jsonl", "dir/deep/b.csv", "dir/.hidden.csv", "dir/_SUCCESS", "directory/c.jsonl"):
        bucket.put(key, key.encode())
    found = _find(tmp_path, "s3://rows/dir", allowed=("s3://rows",))
    assert sorted(source.name for source in found) == ["s3://rows/dir/a.jsonl", "s3://rows/dir/deep/b.csv"]


def test_an_unchanged_object_is_not_fetched_again_and_a_changed_one_is(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("same/a.jsonl", b"old\n")
    (first,) = _find(tmp_path, "s3://rows/same/a.jsonl", allowed=("s3://rows",))
    with monkeypatch.context() as patch:
        patch.setattr("s3fs.S3FileSystem.open", lambda *_: pytest.fail("fetched again"))
        assert _find(tmp_path, "s3://rows/same/a.jsonl", allowed=("s3://rows",)) == (first,)
    bucket.put("same/a.jsonl", b"new\n")
    (second,) = _find(tmp_path, "s3://rows/same/a.jsonl", allowed=("s3://rows",))
    assert (_read(first), _read(second)) == (b"old\n", b"new\n")


@pytest.mark.usefixtures("bucket")
def test_a_bucket_or_object_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        _find(tmp_path, "s3://no-such-bucket/a.jsonl", "s3://rows/none.jsonl", allowed=("s3://",))
    assert "s3://no-such-bucket/a.jsonl: cannot be fetched: NoSuchBucket" in str(caught.value)
    assert "s3://rows/none.jsonl: cannot be fetched: not found" in str(caught.value)


def test_a_url_that_no_allowed_root_covers_is_refused_without_the_network(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        _find(tmp_path, "s3://rows/ab/c.jsonl", "https://host.invalid/a.jsonl", allowed=("data", "s3://rows/a"))
    assert "s3://rows/ab/c.jsonl: lies outside dataset.allowed_roots (s3://rows/a). Add e.g." in str(caught.value)
    assert "https://host.invalid/a.jsonl: lies outside dataset.allowed_roots" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "prefix", "below"),
    [
        ("s3://b/a/x.csv", "s3://b/a", True),
        ("s3://b/a/x.csv", "s3://b/a/", True),
        ("s3://b/a/x.csv", "s3://b", True),
        ("s3://b/a/x.csv", "s3://", True),
        ("s3://b/ab/x.csv", "s3://b/a", False),
        ("s3://bb/a/x.csv", "s3://b", False),
        ("gs://b/a/x.csv", "s3://b", False),
        ("https://Host:443/x.csv", "https://host/", True),
        ("http://host/x.csv", "https://host", False),
        ("https://host.evil.example/x.csv", "https://host", False),
        ("https://host@evil.example/x.csv", "https://host", False),
        ("https://host:8443/x.csv", "https://host", False),
    ],
)
def test_an_allowed_prefix_covers_whole_folders_only(url: str, prefix: str, below: bool) -> None:
    assert is_below(split_url(url), prefix) is below


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("https://host/a/../../etc/x.csv", r"no \. or \.\."),
        ("https://host/a/%2e%2E/x.csv", r"no \. or \.\."),
        ("https://host/a/..%2fx.csv", r"no \. or \.\."),
        ("s3://b/a\n.csv", "no control characters"),
        ("ftp://host/a.csv", "sources are files or URLs that begin with s3://"),
        ("s3://key:secret@b/a.csv", r"s3://b/a.csv: a s3:// URL has no user and no query"),
        ("file:///etc/passwd", "sources are files or URLs that begin with"),
    ],
)
def test_a_misleading_url_is_refused(tmp_path: Path, url: str, fault: str) -> None:
    with pytest.raises(SourceError, match=fault):
        _find(tmp_path, url, allowed=("https://host/a", "s3://b", "ftp://host", "file:///"))


def test_a_missing_package_is_told_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    # What another test has loaded, fsspec remembers.
    monkeypatch.delitem(_registry, "gs", raising=False)
    told = re.escape("gs:// needs the package gcsfs. Run pip install 'ft-pipeline[gcs]'")
    with pytest.raises(SourceError, match=told):
        _find(tmp_path, "gs://rows/a.jsonl", allowed=("gs://rows",))
