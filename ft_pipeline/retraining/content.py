"""The content of a data set as a list of its files, by which a run takes what the one that started it has seen.

<store>/_retraining/<recipe>/contents/<digest>.json
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ft_pipeline.datasets.sources import TRAINING_SET, SourceFile
from ft_pipeline.disk_space import told_of_disk
from ft_pipeline.durable import write_file
from ft_pipeline.errors import ArtifactError, SourceError
from ft_pipeline.fingerprint import fingerprint
from ft_pipeline.retraining.folder import recipe_folder

_DIGEST = re.compile(r"[0-9a-f]{24}")
_SHOWN = 5


class ContentFile(BaseModel):
    """One file. Its name, for people, and its kind are no part of the digest, so a renamed file is the same content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    set: str
    sha256: str
    layout: str
    name: str
    kind: str


class Content(BaseModel):
    """The files of a data set, in any order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: tuple[ContentFile, ...]

    @classmethod
    def of(cls, sources: Iterable[SourceFile]) -> Content:
        """The content that these files are."""
        return cls(
            files=tuple(
                ContentFile(set=file.set, sha256=file.sha256, layout=file.layout, name=file.name, kind=file.kind)
                for file in sources
            )
        )

    @property
    def digest(self) -> str:
        """What identifies it, however its files are called and whenever they were touched."""
        return digest_of([(file.set, file.sha256, file.layout) for file in self.files])

    @property
    def training_files(self) -> set[tuple[str, str]]:
        """Hash and kind of the files that are trained on."""
        return {(file.sha256, file.kind) for file in self.files if file.set == TRAINING_SET}

    @property
    def all_files(self) -> set[tuple[str, str]]:
        """Hash and kind of all files."""
        return {(file.sha256, file.kind) for file in self.files}

    def take(self, sources: Sequence[SourceFile]) -> tuple[SourceFile, ...]:
        """Those of the sources that belong to it.

        Raises:
            SourceError: one is gone or has changed since.
        """
        wanted = {(file.set, file.sha256, file.layout): file.name for file in self.files}
        taken = tuple(source for source in sources if (source.set, source.sha256, source.layout) in wanted)
        missing = sorted(wanted[file] for file in wanted.keys() - {(s.set, s.sha256, s.layout) for s in taken})
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise SourceError(
                f"a run must train on the data that it was started for; {', '.join(missing[:_SHOWN])}{more} "
                "is gone or was changed since. Nothing is lost: what is there now starts a run of its own"
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
            ResourceError: the disk is full or read-only.
        """
        path = self._path(content.digest)
        if not path.exists():
            with told_of_disk():
                write_file(path, content.model_dump_json())

    def read(self, digest: str) -> Content:
        """The content of that digest.

        Raises:
            ArtifactError: it is not known, or does not read.
        """
        try:
            content = Content.model_validate_json(self._path(digest).read_bytes())
        except (OSError, ValidationError) as err:
            raise ArtifactError(
                f"pipeline.data must name a content that retraining has seen, and {digest!r} is none of "
                f"{self._folder}. Leave it out to train on the data that is there now."
            ) from err
        if content.digest != digest:
            raise ArtifactError(f"{self._path(digest)} was changed: it is {content.digest}. Remove it.")
        return content

    def find(self, digest: str) -> Content | None:
        """The same, or None."""
        try:
            return self.read(digest)
        except ArtifactError:
            return None

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
    """Identifies a data set: set, SHA-256 and layout of each of its files, in any order."""
    return fingerprint({"files": [list(file) for file in sorted(data)]})
