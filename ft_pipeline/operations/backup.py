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
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ft_pipeline.artifact import MANIFEST, Artifact, FileRecord
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.containment import is_inside
from ft_pipeline.disk_space import require_space
from ft_pipeline.durable import link_or_copy, remove_path, sync
from ft_pipeline.errors import ArtifactError, CorruptArtifact, MissingArtifact
from ft_pipeline.file_lock import lock_file
from ft_pipeline.fingerprint import hash_file
from ft_pipeline.leftovers import BACKUP, measure_files
from ft_pipeline.operations.backup_folder import (
    LastBackup,
    make_room,
    name_backup,
    note_backup,
    prune_backups,
    remove_drafts,
    require_known_note,
)
from ft_pipeline.operations.contents import CONTENTS, RECORDS, Contents, is_to_save
from ft_pipeline.operations.disk_faults import told_of_faults
from ft_pipeline.publishing.alias import alias_folder, list_recipes, read_state
from ft_pipeline.publishing.champion_files import ASSET
from ft_pipeline.retention import REASONS, Judged, Reason, judge_artifacts
from ft_pipeline.run_record import RunFolder
from ft_pipeline.traces import TraceFolder

_CHUNK_BYTES = 4 << 20
# Of a tar file for each file: its head, and what fills its last block.
_TAR_BYTES = 2048


@dataclass(frozen=True)
class Backup:
    """A backup that was written and read back.

    Attributes:
        path: The file.
        contents: What it holds.
        left_out: What is wrong with each artifact that is not in it; no published model is made of one.
        removed: Older backups that are gone.
    """

    path: Path
    contents: Contents
    left_out: tuple[str, ...]
    removed: tuple[Path, ...]


def back_up(store: ArtifactStore, folder: Path, *, champions_only: bool = False, keep: int | None = None) -> Backup:
    """Write a backup of a store into a folder; runs may be going on.

    Args:
        store: The store.
        folder: Where the file goes, outside of the store and best on another disk; no other store's.
        champions_only: Only what published models are made of, without any 16-bit weights.
        keep: So many backups stay there, this one among them; None: all.

    Raises:
        MissingArtifact: there is nothing to save, or the store has lost a champion.
        NewerFormat: a newer version has made the last one.
        CorruptArtifact: what a published model is made of is damaged, or the disk has not kept what was written; no
            backup is left.
        DiskSpaceError: it does not fit.
        ResourceError: something cannot be read or written.
    """
    created_at = datetime.now(UTC)
    path = folder / name_backup(created_at)
    draft = path.with_name(f".{path.name}.draft")
    with told_of_faults("a backup"):
        _require_elsewhere(folder, store.root)
        require_known_note(store.root)
        with _stage(store, ["published"] if champions_only else REASONS) as staged:
            folder.mkdir(parents=True, exist_ok=True)
            remove_drafts(folder)
            need = measure_files(staged.folder, set()) + sum(_TAR_BYTES for _ in staged.folder.rglob("*"))
            removed = make_room(path, need, keep)
            require_space(
                folder, need, "the backup", "Free some, keep fewer backups, or name a folder of another disk."
            )
            try:
                contents = _write_whole(draft, staged, created_at)
                draft.rename(path)
                sync(folder)
            finally:
                draft.unlink(missing_ok=True)
            removed += prune_backups(path, keep) if keep else []
            note_backup(
                store.root, LastBackup(at=created_at, path=str(path.absolute()), is_one_of_many=keep is not None)
            )
    return Backup(path, contents, tuple(staged.left_out), tuple(removed))


def _require_elsewhere(folder: Path, store_root: Path) -> None:
    if is_inside(folder, [store_root]):
        raise ArtifactError(
            f"a backup must lie elsewhere than what it saves, and {folder} is in the store {store_root}. Name another "
            "folder, best on another disk."
        )


def _write_whole(draft: Path, staged: _Staged, created_at: datetime) -> Contents:
    """Write what is staged and read it back; what turns out to be damaged in the store is left out."""
    for is_last in (False, True):
        contents = _describe(staged, created_at)
        _write(draft, staged.folder, contents)
        if not (faults := find_faults(draft, contents)):
            return contents
        if is_last or not staged.leave_out_damaged():
            break
        draft.unlink()
    raise CorruptArtifact(
        f"a backup must hold what the manifests say, and it does not: {'; '.join(faults)}. The store is whole there, "
        f"so the disk of {draft.parent} has not kept what was written; nothing was saved."
    )


def find_faults(path: Path, contents: Contents) -> list[str]:
    """What in a backup is not as its table says; every byte is read."""
    seen = set[str]()
    faults = []
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                is_table = not seen and member.name == CONTENTS
                if not is_table and (fault := _find_fault(archive, member, contents, seen)):
                    faults.append(fault)
                seen.add(member.name)
    except (tarfile.TarError, ValueError, RecursionError) as err:
        faults.append(f"it is cut off, or made to mislead: {err}")
    return faults + [f"{name} is missing" for name in sorted(contents.files.keys() - seen)]


def _find_fault(
    archive: tarfile.TarFile, member: tarfile.TarInfo, contents: Contents, seen: Collection[str]
) -> str | None:
    record = contents.files.get(member.name)
    if record is None or not (member.isfile() or member.islnk()) or member.issparse():
        return f"{member.name} does not belong there"
    if member.islnk():  # another name of a file that comes before it
        is_same = member.linkname in seen and contents.files.get(member.linkname) == record
    else:
        is_same = _hash_member(archive, member) == record.sha256
    return None if is_same else f"{member.name} is damaged"


@dataclass
class _Staged:
    """What a backup is to hold, in a folder of links."""

    folder: Path
    artifacts: list[Artifact] = field(default_factory=list)
    published: set[tuple[str, str]] = field(default_factory=set)
    left_out: list[str] = field(default_factory=list)

    def add(self, judged: Judged, store_root: Path) -> None:
        """Link an artifact."""
        artifact = judged.artifact
        if judged.reason == "published":
            self.published.add(artifact.key)
        try:
            for name in [*artifact.manifest.files, MANIFEST]:
                source = artifact.path / name
                link_or_copy(source, self.folder / source.relative_to(store_root))
        except FileNotFoundError as err:
            self._leave_out(artifact, f"{err.filename} is not there")
        else:
            self.artifacts.append(artifact)

    def require_champions(self) -> None:
        """Refuse what could not be restored: a champion whose files the store has lost."""
        aliases, keys = alias_folder(self.folder), {artifact.key for artifact in self.artifacts}
        for name in list_recipes(aliases):
            champion = read_state(aliases, name).champion
            if champion and (ASSET, champion.gguf_model) not in keys:
                raise MissingArtifact(
                    f"a backup must hold the champion of {name}, and {ASSET} {champion.gguf_model} is not in the store "
                    "any more. A run of the recipe brings it back from the published folder where it is whole there, "
                    "make rollback goes to another model; nothing was saved."
                )

    def leave_out_damaged(self) -> bool:
        """Compare all bytes with the manifests; whether an artifact was found damaged, which no champion needs."""
        staged, before = ArtifactStore(self.folder), len(self.left_out)
        for artifact in list(self.artifacts):
            try:
                staged.verify(staged.load(*artifact.key))
            except CorruptArtifact as err:
                self.artifacts.remove(artifact)
                self._leave_out(artifact, str(err).replace(str(self.folder), str(artifact.path.parents[1])))
        return len(self.left_out) > before

    def _leave_out(self, artifact: Artifact, fault: str) -> None:
        if artifact.key in self.published:
            raise CorruptArtifact(
                f"what a published model is made of must be saved whole, and is damaged: {fault} make verify says what "
                "else is; nothing was saved."
            )
        self.left_out.append(fault)
        shutil.rmtree(self.folder / "/".join(artifact.key), ignore_errors=True)
        TraceFolder(self.folder).leave(artifact)


@contextmanager
def _stage(store: ArtifactStore, reasons: Collection[Reason]) -> Iterator[_Staged]:
    """Hold what stays for these reasons in a folder of links, as it is at one moment."""
    staged, runs = _Staged(store.root / BACKUP), RunFolder(store.root)
    with lock_file(store.root / "_locks" / "backup"):
        remove_path(staged.folder, ignore_errors=True)  # of one that was killed
        try:
            staged.folder.mkdir(mode=0o700)  # records in it are their owner's alone
            with runs.guard():
                # The aliases first: who is promoted meanwhile is a live run's and saved too, and is no champion yet.
                for source in _list_records(store.root):
                    target = staged.folder / source.relative_to(store.root)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with suppress(FileNotFoundError):  # it has been removed meanwhile
                        shutil.copyfile(source, target)
                for judged in judge_artifacts(store, list(runs.list_runs())):
                    if judged.reason in reasons:
                        staged.add(judged, store.root)
                    else:  # what is saved may have been made of it
                        TraceFolder(staged.folder).leave(judged.artifact)
            if not staged.artifacts:
                raise MissingArtifact(f"{store.root} holds no artifact that is to be saved. Run the pipeline first.")
            staged.require_champions()
            yield staged
        finally:
            shutil.rmtree(staged.folder, ignore_errors=True)


def _list_records(store_root: Path) -> Iterator[Path]:
    for kind in RECORDS:
        for path in (store_root / kind).rglob("*.json"):
            if is_to_save(path.relative_to(store_root).as_posix()):
                yield path


def _describe(staged: _Staged, created_at: datetime) -> Contents:
    """The table of a backup: of artifacts' files what their manifests say, of all others what they are."""
    files = dict[str, FileRecord]()
    for artifact in staged.artifacts:
        for name, record in artifact.manifest.files.items():
            files["/".join((*artifact.key, name))] = record
    for path in sorted(path for path in staged.folder.rglob("*") if path.is_file()):
        name = path.relative_to(staged.folder).as_posix()
        if name not in files:
            files[name] = FileRecord(sha256=hash_file(path), size_bytes=path.stat().st_size)
    return Contents(created_at=created_at, artifacts=tuple(artifact.key for artifact in staged.artifacts), files=files)


def _write(draft: Path, staging: Path, contents: Contents) -> None:
    draft.touch(mode=0o600)  # rows of the data are in it, and records of runs
    with tarfile.open(draft, "w", format=tarfile.PAX_FORMAT) as archive:
        text = contents.model_dump_json(indent=1).encode()
        head = tarfile.TarInfo(CONTENTS)
        head.size = len(text)
        archive.addfile(head, io.BytesIO(text))
        for name in contents.files:
            archive.add(staging / name, name, filter=_without_owner)
    sync(draft)


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _hash_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    stream, digest = archive.extractfile(member), hashlib.sha256()
    while stream and (chunk := stream.read(_CHUNK_BYTES)):
        digest.update(chunk)
    return digest.hexdigest()
