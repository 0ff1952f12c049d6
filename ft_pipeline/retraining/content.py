"""The content of a data set as a list of its files, by which a run takes what the one that started it has seen.

<store>/_retraining/<recipe>/contents/<digest>.json
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ft_pipeline.datasets.sources import TRAINING_SET, Found, SourceFile, find_encoding
from ft_pipeline.durable import write_file
from ft_pipeline.errors import ArtifactError, SourceError
from ft_pipeline.fingerprint import fingerprint
from ft_pipeline.listing import name_some
from ft_pipeline.retraining.folder import recipe_folder, told_of_folder
from ft_pipeline.stored_format import Fields, StoredFormat


def _drop_kinds(fields: Fields) -> Fields:
    return fields | {"files": [{name: file[name] for name in file if name != "kind"} for file in fields["files"]]}


_FORMAT = StoredFormat([_drop_kinds], oldest=0)  # 0 had no field for it, and each file's kind, which its name says
_DIGEST = re.compile(r"[0-9a-f]{24}")
_SHOWN = 5


class ContentFile(BaseModel):
    """One file. Its name is no part of the digest, so a renamed file is the same content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    set: str
    sha256: str
    layout: str
    name: str

    @property
    def key(self) -> tuple[str, str, str]:
        """As of `SourceFile`."""
        return self.set, self.sha256, self.layout

    @property
    def rows_key(self) -> tuple[str, str]:
        """As of `SourceFile`."""
        return self.sha256, find_encoding(self.name)


class Content(BaseModel):
    """The files of a data set, in any order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    files: tuple[ContentFile, ...]

    @classmethod
    def of(cls, sources: Iterable[SourceFile]) -> Content:
        """The content that these files are."""
        return cls(
            files=tuple(
                ContentFile(set=file.set, sha256=file.sha256, layout=file.layout, name=file.name) for file in sources
            )
        )

    @property
    def digest(self) -> str:
        """What identifies it, however its files are called, whenever they were touched and however often copied."""
        return digest_of(file.key for file in self.files)

    @property
    def digest_of_format_0(self) -> str:
        """What identified it then: each copy of a file counted."""
        return _hash_files(file.key for file in self.files)

    @property
    def training_files(self) -> set[tuple[str, str]]:
        """The `rows_key` of each file that is trained on."""
        return {file.rows_key for file in self.files if file.set == TRAINING_SET}

    @property
    def all_files(self) -> set[tuple[str, str]]:
        """The `rows_key` of each file."""
        return {file.rows_key for file in self.files}

    def take(self, found: Found) -> tuple[SourceFile, ...]:
        """Those of the files that belong to it; what is wrong with others does not matter.

        Raises:
            SourceError: one is gone or has changed since.
        """
        wanted = {file.key: file.name for file in self.files}
        taken = tuple(source for source in found.files if source.key in wanted)
        missing = sorted(wanted[key] for key in wanted.keys() - {source.key for source in taken})
        if missing:
            faults = [f" ({fault.sentence})" for fault in found.faults[:_SHOWN]]
            raise SourceError(
                f"a run must train on the data that it was started for; {name_some(missing, _SHOWN)} "
                f"is gone or was changed since{''.join(faults)}. Nothing is lost: what is there now starts a run of "
                "its own"
            )
        return taken


class ContentFolder:
    """The contents of a recipe's data that runs have begun with, or were started for.

    Args:
        store_root: The artifact store's folder.
        recipe_name: The recipe's.
    """

    def __init__(self, store_root: Path, recipe_name: str) -> None:
        self._folder = recipe_folder(store_root, recipe_name) / "contents"

    def write(self, content: Content) -> None:
        """Keep a content; it is found by its digest.

        Raises:
            ResourceError, ArtifactError: as of `told_of_folder`.
        """
        path = self._path(content.digest)
        with told_of_folder(path):
            if not path.exists():
                write_file(path, content.model_dump_json())

    def read(self, digest: str) -> Content:
        """The content of that digest.

        Raises:
            ArtifactError: it is not known, or as of `find`.
        """
        content = self.find(digest)
        if content is None:
            raise ArtifactError(
                f"pipeline.data must name a content that retraining has seen, and {digest!r} is none of "
                f"{self._folder}. Leave it out to train on the data that is there now."
            )
        return content

    def find(self, digest: str) -> Content | None:
        """The same, or None if it is not there.

        Raises:
            NewerFormat: a newer version has written it.
            ArtifactError: it is no digest, or what is there does not read or was changed.
            ResourceError: as of `told_of_folder`.
        """
        path = self._path(digest)
        with told_of_folder(path):
            try:
                content = _FORMAT.read(path, Content)
            except FileNotFoundError:
                return None
            except (ValueError, LookupError, TypeError) as err:
                raise _is_damaged(path, "does not read") from err
        if digest not in (content.digest, content.digest_of_format_0):
            raise _is_damaged(path, f"was changed: it is {content.digest}")
        return content

    def keep_only(self, digests: Iterable[str]) -> None:
        """Forget all but these."""
        wanted = set(digests)
        for path in self._folder.glob("*.json"):
            if path.stem not in wanted:
                path.unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise ArtifactError(f"a content's digest has 24 hexadecimal digits, got {digest!r}")
        return self._folder / f"{digest}.json"


def digest_of(data: Iterable[tuple[str, str, str]]) -> str:
    """Identifies a data set: set, SHA-256 and layout of each of its files, in any order; a copy of one is no other."""
    return _hash_files(set(data))


def _hash_files(files: Iterable[tuple[str, str, str]]) -> str:
    return fingerprint({"files": [list(file) for file in sorted(files)]})


def _is_damaged(path: Path, how: str) -> ArtifactError:
    return ArtifactError(
        f"{path} {how}. Restore it from a backup, or remove it: if it was trained on last, all rows count as new then."
    )
