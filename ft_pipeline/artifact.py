"""One artifact: its key, its manifest, and whether its files are those of the manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ft_pipeline.errors import ArtifactError
from ft_pipeline.fingerprint import fingerprint, hash_file
from ft_pipeline.summary import Summary

MANIFEST = "manifest.json"
FORMAT = 1


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
    created_at: datetime


@dataclass(frozen=True)
class Artifact:
    """A whole artifact on disk; `reused` says that it was there before."""

    path: Path
    manifest: Manifest
    reused: bool = True

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


def describe(key: ArtifactKey, draft: Path, written: Written, wall_seconds: float) -> Manifest:
    files: dict[str, FileRecord] = {}
    for path in sorted(draft.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ArtifactError(f"an artifact holds plain files only; {path.relative_to(draft)} of {key.asset} is none")
        if path.is_file():
            name = path.relative_to(draft).as_posix()
            files[name] = FileRecord(sha256=hash_file(path), size_bytes=path.stat().st_size)
    return Manifest(
        format=FORMAT,
        asset=key.asset,
        fingerprint=key.fingerprint,
        upstream=dict(key.upstream),
        ingredients=dict(key.ingredients),
        files=files,
        summary=written.summary,
        notes=dict(written.notes or {}),
        wall_seconds=round(wall_seconds, 3),
        peak_rss_bytes=written.peak_rss_bytes,
        created_at=datetime.now(UTC),
    )


def find_faults(artifact: Artifact) -> Iterator[tuple[str, str]]:
    present = {p.relative_to(artifact.path).as_posix() for p in artifact.path.rglob("*") if not p.is_dir()}
    for name in sorted(present - set(artifact.manifest.files) - {MANIFEST}):
        yield name, "not in the manifest"
    for name, record in artifact.manifest.files.items():
        path = artifact.path / name
        if name not in present or path.is_symlink():
            yield name, "missing"
        elif (size := path.stat().st_size) != record.size_bytes:
            yield name, f"{size} bytes, expected {record.size_bytes}"
        elif (sha256 := hash_file(path)) != record.sha256:
            yield name, f"SHA-256 {sha256[:12]}…, expected {record.sha256[:12]}…"
