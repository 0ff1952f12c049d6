"""One artifact: its key, its manifest, and whether its files are those of the manifest."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, field_validator

from ft_pipeline.containment import is_below
from ft_pipeline.errors import ArtifactError
from ft_pipeline.fingerprint import fingerprint, hash_file
from ft_pipeline.stored_format import StoredFormat
from ft_pipeline.summary import Summary

MANIFEST = "manifest.json"
# An upgrade leaves asset, fingerprint, ingredients, upstream and files alone: they say which artifact it is.
MANIFEST_FORMAT = StoredFormat()


@dataclass(frozen=True)
class ArtifactKey:
    """Which artifact: the asset, all that goes in, and the artifacts among that."""

    asset: str
    ingredients: Mapping[str, Any]
    upstream: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """Hash of asset, ingredients and upstream fingerprints."""
        return fingerprint({"asset": self.asset, "ingredients": self.ingredients, "upstream": self.upstream})


class FileRecord(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    size_bytes: int


class Manifest(BaseModel):
    """What is known of an artifact. `notes` say how it was made on this machine and are no part of the fingerprint."""

    model_config = ConfigDict(frozen=True)

    format: int
    asset: str
    fingerprint: str
    upstream: dict[str, str]
    ingredients: dict[str, Any]
    files: dict[str, FileRecord]
    summary: Summary
    notes: dict[str, Any]
    wall_seconds: float
    peak_rss_bytes: int | None
    created_at: AwareDatetime

    @field_validator("files")
    @classmethod
    def _require_names(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        if wrong := [name for name in files if not is_below(name)]:
            raise ValueError(f"an artifact's files must lie in its folder, got {', '.join(map(repr, wrong))}")
        return files


@dataclass(frozen=True)
class Artifact:
    """A whole artifact on disk; `reused` says that it was there before."""

    path: Path
    manifest: Manifest
    reused: bool = True

    @property
    def key(self) -> tuple[str, str]:
        """Its asset and its fingerprint."""
        return self.manifest.asset, self.manifest.fingerprint

    @property
    def size_bytes(self) -> int:
        """Size of all files, the manifest left out."""
        return sum(record.size_bytes for record in self.manifest.files.values())


@dataclass(frozen=True)
class Written:
    """What a builder says after it has filled the draft folder."""

    summary: Summary
    peak_rss_bytes: int | None = None
    notes: Mapping[str, Any] | None = None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact's folder, or of a copy of it.

    Raises:
        NewerFormat: a newer version has written it.
        ValueError: it does not read.
        OSError: it cannot be read, or is not there.
    """
    return MANIFEST_FORMAT.read(folder / MANIFEST, Manifest)


def describe(key: ArtifactKey, draft: Path, written: Written, wall_seconds: float) -> Manifest:
    known = written.summary.sha256
    paths: dict[str, Path] = {}
    for path in sorted(draft.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ArtifactError(f"an artifact holds plain files only; {path.relative_to(draft)} of {key.asset} is none")
        if path.is_file():
            paths[path.relative_to(draft).as_posix()] = path
    hashes = known | _hash_files({name: path for name, path in paths.items() if name not in known})
    return Manifest(
        format=MANIFEST_FORMAT.present,
        asset=key.asset,
        fingerprint=key.fingerprint,
        upstream=dict(key.upstream),
        ingredients=dict(key.ingredients),
        files={name: FileRecord(sha256=hashes[name], size_bytes=path.stat().st_size) for name, path in paths.items()},
        summary=written.summary.model_copy(update={"sha256": {}}),
        notes=dict(written.notes or {}),
        wall_seconds=round(wall_seconds, 3),
        peak_rss_bytes=written.peak_rss_bytes,
        created_at=datetime.now(UTC),
    )


def _hash_files(paths: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of each file, several at a time: hashlib lets other threads run meanwhile."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(paths, pool.map(hash_file, paths.values()), strict=True))


def find_faults(artifact: Artifact) -> Iterator[tuple[str, str]]:
    present = {p.relative_to(artifact.path).as_posix() for p in artifact.path.rglob("*") if not p.is_dir()}
    for name in sorted(present - set(artifact.manifest.files) - {MANIFEST}):
        yield name, "not in the manifest"
    to_hash = {}
    for name, record in artifact.manifest.files.items():
        path = artifact.path / name
        if name not in present or path.is_symlink():
            yield name, "missing"
        elif (size := path.stat().st_size) != record.size_bytes:
            yield name, f"{size} bytes, expected {record.size_bytes}"
        else:
            to_hash[name] = path
    for name, sha256 in _hash_files(to_hash).items():
        if sha256 != (expected := artifact.manifest.files[name].sha256):
            yield name, f"SHA-256 {sha256[:12]}…, expected {expected[:12]}…"
