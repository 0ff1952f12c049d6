"""Finds all files that a recipe's data section names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ft_pipeline.datasets.sources.copies import Copy, HashOf
from ft_pipeline.datasets.sources.hub import HubSplit, expand_hub_files, is_hub_name
from ft_pipeline.datasets.sources.local import AllowedRoots, expand_local, reason, resolve_local
from ft_pipeline.datasets.sources.remote import expand_remote
from ft_pipeline.datasets.sources.source_file import TRAINING_SET, SourceFile, shown
from ft_pipeline.datasets.sources.suffixes import split_suffix
from ft_pipeline.datasets.sources.urls import is_url, split_url
from ft_pipeline.errors import SourceError
from ft_pipeline.fingerprint import hash_file
from ft_pipeline.recipe import DatasetSection, SourceSection

_OF_THE_HUB = ("revision", "subset", "split")


@dataclass(frozen=True)
class SourceFault:
    """Why a source, or something in it, cannot be used.

    Attributes:
        set: `train`, or the name of a test set.
        sentence: Which one and why, for people.
        is_of_entry: It is of one file or folder of this machine; what else the source stands for was found.
        is_no_data: By its name it never is data.
    """

    set: str
    sentence: str
    is_of_entry: bool
    is_no_data: bool = False


@dataclass(frozen=True)
class Found:
    """What a recipe's sources stand for.

    Attributes:
        files: In the order of set and content hash. That order, and so all that is made of the files, does not change
            when a file is touched or renamed.
    """

    files: tuple[SourceFile, ...]
    faults: tuple[SourceFault, ...]


@dataclass(frozen=True)
class _Place:
    """A file that was found and is not looked into yet."""

    name: str
    get: Callable[[], Copy]
    path: Path | None = None

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine."""
        return self.path is not None


def find_sources(
    section: DatasetSection, root: Path, downloads: Path, own: Sequence[Path] = ()
) -> tuple[SourceFile, ...]:
    """All files of the recipe's sources and test sets, as of `search_sources`.

    Raises:
        SourceError: a source stands for no file, or a file is outside the allowed roots, unreadable, no plain file, or
            of an unknown suffix; all faults are named.
        DiskSpaceError: there is no room for a copy.
    """
    found = search_sources(section, root, downloads, own=own)
    raise_faults(found.faults)
    return found.files


def raise_faults(faults: Iterable[SourceFault]) -> None:
    """Raise a `SourceError` that names all faults, if there are any."""
    if lines := [f"{fault.sentence} ({fault.set})" for fault in faults]:
        raise SourceError("\n".join(["the recipe's data sources cannot be used:", *lines]))


def search_sources(
    section: DatasetSection, root: Path, downloads: Path, hash_of: HashOf = hash_file, *, own: Sequence[Path] = ()
) -> Found:
    """All files of the recipe's sources and test sets that can be used, and what is wrong with the others.

    Args:
        root: The project's folder.
        downloads: Folder for copies of what lies elsewhere; it is made when the first is fetched.
        hash_of: Gives a file's SHA-256.
        own: Folders that the pipeline writes. What it has made is no data: a source that names more passes it over,
            and one that names it is refused.

    Raises:
        DiskSpaceError: there is no room for a copy.
    """
    finder = _Finder(section, root, downloads, hash_of, own)
    named = {TRAINING_SET: section.sources, **section.test_sets}
    for set_name, sources in named.items():
        for source in sources:
            finder.add(set_name, SourceSection(path=source) if isinstance(source, str) else source)
    files = sorted(finder.found.values(), key=lambda source: (source.set, source.sha256, source.name))
    return Found(tuple(files), tuple(dict.fromkeys(finder.faults)))


class _Finder:
    """Collects the files of one section, and what is wrong with them."""

    def __init__(
        self, section: DatasetSection, root: Path, downloads: Path, hash_of: HashOf, own: Sequence[Path]
    ) -> None:
        self.found: dict[tuple[str, Path], SourceFile] = {}
        self.faults: list[SourceFault] = []
        self._section = section
        self._root = root
        self._downloads = downloads
        self._hash_of = hash_of
        folders = [(root / allowed).resolve() for allowed in section.allowed_roots if "://" not in allowed]
        self._roots = AllowedRoots(tuple(folders), tuple(folder.resolve() for folder in own))
        self._prefixes = tuple(allowed for allowed in section.allowed_roots if "://" in allowed)

    def add(self, set_name: str, source: SourceSection) -> None:
        """Find the files of one source."""
        try:
            places = list(self._places(set_name, source))
        except SourceError as err:
            self.faults.append(SourceFault(set_name, str(err), is_of_entry=False))
            return
        for place in places:
            try:
                split_suffix(place.name)
            except SourceError as err:
                self.faults.append(SourceFault(set_name, str(err), is_of_entry=place.is_local, is_no_data=True))
                continue
            try:
                copy = place.get()
            except SourceError as err:
                self.faults.append(SourceFault(set_name, str(err), is_of_entry=place.is_local))
            else:
                self._keep(set_name, source, place, copy)

    def _places(self, set_name: str, source: SourceSection) -> Iterator[_Place]:
        if source.path.lower().startswith("hf://"):
            _require_unset(source, "subset", "split")
            remote = expand_hub_files(source, self._prefixes, self._downloads)
            yield from (_Place(file.url.shown, partial(file.fetch, self._downloads, self._hash_of)) for file in remote)
        elif "://" in source.path:
            _require_unset(source, *_OF_THE_HUB)
            remote = expand_remote(source.path, self._prefixes)
            yield from (_Place(file.url.shown, partial(file.fetch, self._downloads, self._hash_of)) for file in remote)
        elif is_hub_name(source.path) and not os.path.lexists(self._root / source.path):
            split = HubSplit(source, self._prefixes)
            yield _Place(split.url.shown, partial(split.fetch, self._downloads, self._hash_of))
        else:
            _require_unset(source, *_OF_THE_HUB)
            paths, faults = expand_local(source.path, self._root, self._roots)
            self.faults += [SourceFault(set_name, fault, is_of_entry=True) for fault in faults]
            for path in paths:
                get = partial(_read, path, self._roots, self._hash_of)
                yield _Place(self._local_name(path), get, path)

    def _local_name(self, path: Path) -> str:
        return shown(path.relative_to(self._root).as_posix() if path.is_relative_to(self._root) else str(path))

    def _keep(self, set_name: str, source: SourceSection, place: _Place, copy: Copy) -> None:
        found = SourceFile(
            set=set_name,
            path=copy.path,
            name=place.name,
            sha256=copy.sha256,
            size_bytes=copy.size_bytes,
            format=source.format or self._section.format,
            columns=self._section.columns if source.columns is None else source.columns,
            link=place.path if place.path and place.path.is_symlink() else None,
        )
        before = self.found.setdefault((set_name, copy.path), found)
        if (before.format, before.columns) != (found.format, found.columns):
            sentence = f"{place.name}: is named twice, with two formats or columns. Leave one out"
            self.faults.append(SourceFault(set_name, sentence, is_of_entry=False))


def _read(path: Path, roots: AllowedRoots, hash_of: HashOf) -> Copy:
    resolved = resolve_local(path, roots)
    try:
        return Copy(resolved, hash_of(resolved), resolved.stat().st_size)
    except OSError as err:
        raise SourceError(f"{shown(str(path))}: cannot be read: {reason(err)}") from err


def _require_unset(source: SourceSection, *fields: str) -> None:
    if given := sorted(source.model_fields_set & set(fields)):
        path = split_url(source.path).shown if is_url(source.path) else shown(source.path)
        raise SourceError(f"{path}: {', '.join(given)} can be given only for data sets of the Hub")
