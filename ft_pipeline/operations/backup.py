"""One file that holds what a store must not lose, checked after it was written.

    backup.json                     format, when, and SHA-256 and size of all that follows
    <asset>/<fingerprint>/...       artifacts that retention keeps, or those of published models alone
    _aliases/*.json, _runs/*.json   who is champion and how that came to be; what runs began with
    _traces/*.json                  what artifacts that are gone were made of
    _retraining/**/*.json           what became of each content of the data

Artifacts never change, so hard links hold those that are to be saved while runs, and their retention, go on. What can
be had again is not in it: checkpoints, copies of remote files, logs, the published folder (`restore.py` lays it anew).
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ft_pipeline.artifact import MANIFEST, FileRecord
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.disk_space import require_space
from ft_pipeline.durable import link_or_copy, sync
from ft_pipeline.errors import CorruptArtifact, MissingArtifact
from ft_pipeline.file_lock import lock_file
from ft_pipeline.fingerprint import hash_file
from ft_pipeline.retention import REASONS, Judged, Reason, judge_artifacts
from ft_pipeline.run_record import RunFolder

CONTENTS = "backup.json"
RECORDS = ("_aliases", "_runs", "_traces", "_retraining")
_STAGING = "_backup"
_CHUNK_BYTES = 4 << 20


class Contents(BaseModel):
    """What a backup holds; `artifacts` are assets and fingerprints, `files` paths below the store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    created_at: datetime
    artifacts: tuple[tuple[str, str], ...]
    files: dict[str, FileRecord]

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(record.size_bytes for record in self.files.values())


@dataclass(frozen=True)
class Backup:
    """A backup that was written and read back."""

    path: Path
    contents: Contents


def back_up(store: ArtifactStore, folder: Path, *, champions_only: bool = False) -> Backup:
    """Write a backup of a store into a folder; runs may be going on.

    Args:
        store: The store.
        folder: Where the file goes, best on another disk; no other store's.
        champions_only: Only what published models are made of, without any 16-bit weights.

    Raises:
        MissingArtifact: there is nothing to save.
        CorruptArtifact: an artifact is damaged, or the disk has not kept what was written; no backup is left.
        DiskSpaceError: it does not fit.
    """
    created_at = datetime.now(UTC)
    path = folder / f"ft_pipeline-{created_at:%Y%m%dT%H%M%SZ}.tar"
    draft = path.with_name(f".{path.name}.draft")
    with _stage(store, ["published"] if champions_only else REASONS) as (staging, artifacts):
        contents = _describe(staging, artifacts, created_at)
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".ft_pipeline-*.tar.draft"):  # of one that was killed
            left.unlink()
        require_space(folder, contents.size_bytes, "the backup")
        try:
            _write(draft, staging, contents)
            if faults := find_faults(draft, contents):
                raise CorruptArtifact(
                    f"a backup must hold what the manifests say, and it does not: {'; '.join(faults)}. make verify "
                    "says whether the store is damaged; nothing was saved."
                )
            draft.rename(path)
            sync(folder)
        finally:
            draft.unlink(missing_ok=True)
    return Backup(path, contents)


def prune_backups(folder: Path, keep: int) -> list[Path]:
    """Remove all but the newest backups of a folder; those that are gone now."""
    older = sorted(folder.glob("ft_pipeline-*Z.tar"), reverse=True)[keep:]
    for path in older:
        path.unlink()
    return older


def find_faults(path: Path, contents: Contents) -> list[str]:
    """What in a backup is not as its table says; every byte is read."""
    missing = set(contents.files)
    faults = []
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.name != CONTENTS and (fault := _find_fault(archive, member, contents)):
                    faults.append(fault)
                missing.discard(member.name)
    except tarfile.TarError as err:
        faults.append(f"it is cut off: {err}")
    return faults + [f"{name} is missing" for name in sorted(missing)]


def _find_fault(archive: tarfile.TarFile, member: tarfile.TarInfo, contents: Contents) -> str | None:
    record = contents.files.get(member.name)
    if record is None or not (member.isfile() or member.islnk()):
        return f"{member.name} does not belong there"
    if member.islnk():  # another name of a file that comes before it
        is_same = contents.files.get(member.linkname) == record
    else:
        is_same = _hash_member(archive, member) == record.sha256
    return None if is_same else f"{member.name} is damaged"


@contextmanager
def _stage(store: ArtifactStore, reasons: Collection[Reason]) -> Iterator[tuple[Path, list[tuple[str, str]]]]:
    """Hold what stays for these reasons in a folder of links, as it is at one moment."""
    staging, runs = store.root / _STAGING, RunFolder(store.root)
    with lock_file(store.root / "_locks" / "backup"):
        shutil.rmtree(staging, ignore_errors=True)  # of one that was killed
        try:
            with runs.guard():
                # The aliases first: who is promoted meanwhile is a live run's and saved too, and is no champion yet.
                for source in (path for kind in RECORDS for path in (store.root / kind).rglob("[!.]*.json")):
                    target = staging / source.relative_to(store.root)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, target)
                wanted = _link(store, judge_artifacts(store, list(runs.list_runs())), staging, reasons)
            if not wanted:
                raise MissingArtifact(f"{store.root} holds no artifact that is to be saved. Run the pipeline first.")
            yield staging, wanted
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _link(
    store: ArtifactStore, judged: Sequence[Judged], staging: Path, reasons: Collection[Reason]
) -> list[tuple[str, str]]:
    """Link what is to be saved, and leave a trace of what is not: what is saved may have been made of it."""
    linked = []
    for artifact, reason in ((one.artifact, one.reason) for one in judged):
        if reason not in reasons:
            ArtifactStore(staging).leave_trace(artifact)
            continue
        for name in [*artifact.manifest.files, MANIFEST]:
            source = artifact.path / name
            link_or_copy(source, staging / source.relative_to(store.root))
        linked.append((artifact.manifest.asset, artifact.manifest.fingerprint))
    return linked


def _describe(staging: Path, artifacts: list[tuple[str, str]], created_at: datetime) -> Contents:
    """The table of a backup: of artifacts' files what their manifests say, of all others what they are."""
    store, files = ArtifactStore(staging), dict[str, FileRecord]()
    for asset, fingerprint in artifacts:
        for name, record in store.load(asset, fingerprint).manifest.files.items():
            files[f"{asset}/{fingerprint}/{name}"] = record
    for path in sorted(path for path in staging.rglob("*") if path.is_file()):
        name = path.relative_to(staging).as_posix()
        if name not in files:
            files[name] = FileRecord(sha256=hash_file(path), size_bytes=path.stat().st_size)
    return Contents(created_at=created_at, artifacts=tuple(artifacts), files=files)


def _write(draft: Path, staging: Path, contents: Contents) -> None:
    draft.touch(mode=0o600)  # a recipe in a record may name a URL that carries a key
    with tarfile.open(draft, "w", format=tarfile.PAX_FORMAT) as archive:
        text = contents.model_dump_json(indent=1).encode()
        head = tarfile.TarInfo(CONTENTS)
        head.size = len(text)
        archive.addfile(head, io.BytesIO(text))
        for name in contents.files:
            archive.add(staging / name, name, filter=_without_owner)
    sync(draft)


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    return member.replace(uid=0, gid=0, uname="", gname="", deep=False)


def _hash_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    stream, digest = archive.extractfile(member), hashlib.sha256()
    while stream and (chunk := stream.read(_CHUNK_BYTES)):
        digest.update(chunk)
    return digest.hexdigest()
