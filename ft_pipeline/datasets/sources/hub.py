"""Sources on the Hugging Face Hub: files of a data set's repository, or a split that `datasets` can load."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ft_pipeline.datasets.sources.copies import Copy, HashOf, draft, find_copy, keep_copy, open_folder, require_room
from ft_pipeline.datasets.sources.network import raise_if_full, remote_errors, with_retries
from ft_pipeline.datasets.sources.redaction import without_secrets
from ft_pipeline.datasets.sources.remote import RemoteFile, list_files, open_filesystem
from ft_pipeline.datasets.sources.suffixes import find_suffix
from ft_pipeline.datasets.sources.urls import Url, check_url, is_below, require_below
from ft_pipeline.durable import write_file
from ft_pipeline.errors import SourceError
from ft_pipeline.hub import COMMIT
from ft_pipeline.recipe import SourceSection

_BATCH_ROWS = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_PATH = re.compile(r"hf://datasets/(?P<name>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<path>.*))?")
_LISTING = "listing.json"


def is_hub_name(path: str) -> bool:
    """Whether a source that is no local path reads as owner/name of the Hub."""
    return _NAME.fullmatch(path) is not None and find_suffix(path) is None


def expand_hub_files(source: SourceSection, allowed: tuple[str, ...], downloads: Path) -> list[RemoteFile]:
    """Files of a repository at a commit. What is listed or fetched once needs no network again.

    Raises:
        SourceError: no data set's URL, no commit, not allowed, nothing there, or the Hub cannot be asked.
    """
    check_url(source.path)
    parts = _PATH.fullmatch(source.path)
    if parts is None:
        raise SourceError(f"{check_url(source.path).shown}: is no hf://datasets/owner/name[@commit]/path")
    name, path = parts["name"], parts["path"] or ""
    if parts["revision"] and source.revision and parts["revision"] != source.revision:
        raise SourceError(
            f"{source.path}: the URL and its revision name two commits ({source.revision}). Leave one out"
        )
    revision = _require_commit(source.path, parts["revision"] or source.revision)
    # The prefix in allowed_roots names no commit.
    require_below(check_url(f"hf://datasets/{name}/{path}"), allowed, f"hf://datasets/{name}")
    location = f"hf://datasets/{name}@{revision}/{path}".rstrip("/")
    url = check_url(location)
    filesystem = open_filesystem(url)
    names = [location]
    if find_suffix(path) is None or any(mark in path for mark in "*?["):
        names = _list(filesystem, location, url, downloads)
    return [RemoteFile(filesystem, found, check_url(found), allowed, is_pinned=True) for found in names]


class HubSplit:
    """A split of a data set of the Hub at a commit.

    Args:
        source: Its path is owner/name.
        allowed: Prefixes of `dataset.allowed_roots`.

    Raises:
        SourceError: no commit, or not allowed.
    """

    def __init__(self, source: SourceSection, allowed: tuple[str, ...]) -> None:
        self._source = source
        root = f"hf://datasets/{source.path}"
        if not any(is_below(check_url(root), prefix) for prefix in allowed):
            raise SourceError(
                f"{source.path}: is no file or folder of the project. If it is a data set of the Hub, "
                f"add {root} to dataset.allowed_roots"
            )
        self._revision = _require_commit(source.path, source.revision)
        self.url: Url = check_url(f"{root}@{self._revision}/{source.subset or 'default'}/{source.split}.parquet")

    def fetch(self, downloads: Path, hash_of: HashOf) -> Copy:
        """Its rows as a parquet file. Exported once, it needs no network again.

        Raises:
            SourceError: the Hub cannot be asked, or the data set, subset or split is not there.
            DiskSpaceError: there is no room for it.
        """
        source = self._source
        with open_folder(downloads, source.path, self._revision, source.subset, source.split) as folder:
            if copy := find_copy(folder, "export", ".parquet", hash_of):
                return copy
            with draft(folder) as path:
                self._export(path)
                return keep_copy(path, "export", ".parquet", {"url": self.url.shown})

    def _export(self, path: Path) -> None:
        source = self._source
        if Path(source.path).exists():  # `datasets` would take the folder, without a word
            raise SourceError(f"{source.path}: a folder of that name in {Path.cwd()} hides the Hub's. Rename it")
        import datasets

        datasets.disable_progress_bars()
        try:
            split = datasets.load_dataset(source.path, name=source.subset, revision=self._revision, split=source.split)
            require_room(path.parent, split.data.nbytes, self.url.shown)
            _write_parquet(split, path)
        except (*remote_errors(), datasets.exceptions.DatasetsError) as err:
            raise_if_full(err, self.url)
            told = f"{type(err).__name__}: {without_secrets(str(err), self.url)}"
            raise SourceError(
                f"{source.path}: split {source.split!r} of subset {source.subset or 'default'!r} at {self._revision} "
                f"cannot be loaded: {told}. Check name, revision, subset and split; offline, load it once before"
            ) from None


def _write_parquet(split: object, path: Path) -> None:
    import datasets
    import pyarrow.parquet as pq

    assert isinstance(split, datasets.Dataset)  # noqa: S101 - a split was asked for
    schema = split.features.arrow_schema
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in split.with_format("arrow").iter(batch_size=_BATCH_ROWS):
            writer.write_table(table.cast(schema))


def _require_commit(name: str, revision: str | None) -> str:
    if revision is None or not COMMIT.fullmatch(revision):
        raise SourceError(
            f"{name}: a source of the Hub needs a revision of 40 hex digits, got {revision!r}. A branch moves; "
            "take the commit from the data set's page, Files and versions, History"
        )
    return revision


def _list(filesystem: object, location: str, url: Url, downloads: Path) -> list[str]:
    """Names in a repository at a commit; kept, for they never change."""
    with open_folder(downloads, location) as folder:
        kept = folder / _LISTING
        if kept.is_file():
            names: list[str] = json.loads(kept.read_text(encoding="utf-8"))
            return names
        found = with_retries(url, lambda: list_files(filesystem, location, url))
        write_file(kept, json.dumps(found))
        return found
