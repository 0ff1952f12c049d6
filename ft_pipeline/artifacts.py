"""The artifact store: content-addressed folders that are whole or not there.

    <root>/<asset>/<fingerprint>/      the artifact's files and manifest.json
    <root>/_traces/<asset>-<fingerprint>.json  what one that was removed was made of
    <root>/_locks/, _logs/, _aliases/, _checkpoints/  what is not an artifact

The fingerprint is a hash of all that goes in (`lineage.py`), so it is known before the work is done and an artifact
that is already there and whole is the result. One writer per key holds its lock; it writes to a sibling folder, flushes
it and renames it. A killed writer leaves a draft that the next one removes.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ft_pipeline.artifact import (
    MANIFEST,
    MANIFEST_FORMAT,
    Artifact,
    ArtifactKey,
    Written,
    describe,
    find_faults,
    read_manifest,
)
from ft_pipeline.disk_space import require_space, told_of_disk
from ft_pipeline.durable import remove_path, sync, sync_tree
from ft_pipeline.errors import ArtifactError, CorruptArtifact, MissingArtifact
from ft_pipeline.file_lock import lock_file, try_lock_of_anybody
from ft_pipeline.scratch import find_scratch, remove_scratch
from ft_pipeline.store_names import ASSET_FORM, FINGERPRINT_FORM, KEY_FORM, find_folders
from ft_pipeline.traces import TraceFolder

_LEFT = re.compile(r"\.([0-9a-f]+)\.(?:draft|removed|replaced)-[0-9a-f]+")
# Nobody goes on with a training that was cut off longer ago.
_CHECKPOINT_DAYS = 30
_SAFE_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


class ArtifactStore:
    """Artifacts below one folder.

    Args:
        root: The folder; made when the first artifact is built.
        tell: Called with a sentence: a damaged artifact is built anew, or another process builds what is wanted.
        verified: Folders and their inodes whose bytes were compared already: what several stores of one run share.
    """

    def __init__(
        self,
        root: Path,
        tell: Callable[[str], None] = lambda _: None,
        verified: set[tuple[Path, int]] | None = None,
    ) -> None:
        self.root = root
        self.traces = TraceFolder(root)
        self._tell = tell
        self._verified = set() if verified is None else verified
        self._building: dict[str, int] = {}

    def build(self, key: ArtifactKey, write: Callable[[Path], Written]) -> Artifact:
        """The artifact of this key: the one that is there, or what `write` puts into the folder that it is given.

        Waits while another process builds the same key, and takes its result then.

        Raises:
            DiskSpaceError: the disk became full.
            ResourceError: it is read-only.
        """
        tell = self._tell_once(f"waits for another process that builds {key.asset}")
        with told_of_disk(), lock_file(self._lock_path(key), tell) as lock:
            self._recover(key.asset, key.fingerprint)
            if found := self._find_whole(key):
                return found
            with self._held(key, lock), self._draft(key) as draft:
                started = time.perf_counter()
                written = write(draft)
                manifest = describe(key, draft, written, time.perf_counter() - started)
                (draft / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
                sync_tree(draft)
                self._swap_in(draft, self._path(key.asset, key.fingerprint))
        built = self.load(key.asset, key.fingerprint)
        self._verified.add(_identity(built))  # its bytes were hashed a moment ago
        return replace(built, reused=False)

    def lock_of(self, key: ArtifactKey) -> int:
        """The open lock of a key that is being built: who writes for it in another process inherits this.

        The builder may be killed before that process has ended, and until then nobody else shall build the key.
        """
        return self._building[key.fingerprint]

    def require(self, key: ArtifactKey) -> Artifact:
        """The artifact of this key, verified.

        Raises:
            MissingArtifact: it is not there; the message says what to run.
            CorruptArtifact: a file does not match the manifest.
        """
        path = self._path(key.asset, key.fingerprint)
        if path.parent.exists() and not path.exists():
            with lock_file(self._lock_path(key)):
                self._recover(key.asset, key.fingerprint)
        try:
            artifact = self.load(key.asset, key.fingerprint)
        except MissingArtifact as err:
            raise MissingArtifact(
                f"{key.asset} {key.fingerprint} is not in {self.root}: it was never built for this recipe and data, or "
                f"retention has removed it. Build it first: dagster asset materialize --select '*{key.asset}' "
                "-m ft_pipeline.definitions"
            ) from err
        self.verify(artifact)
        return artifact

    def load(self, asset: str, fingerprint_: str) -> Artifact:
        """Read an artifact's manifest, without looking at its files.

        Raises:
            MissingArtifact: there is no such folder.
            CorruptArtifact: the manifest does not read, or is of another artifact.
            NewerFormat: a newer version has built it.
            ArtifactError: it cannot be read.
        """
        path = self._path(asset, fingerprint_)
        if path.is_symlink() or path.is_file():
            raise CorruptArtifact(f"{path} must be a folder, and is a file or a link. Move it away and build it again.")
        try:
            manifest = read_manifest(path)
        except FileNotFoundError as err:
            if path.exists():
                raise CorruptArtifact(f"{path} has no {MANIFEST}. Remove the folder and build it again.") from err
            raise MissingArtifact(f"{asset} {fingerprint_} is not in {self.root}") from err
        except ValueError as err:
            raise CorruptArtifact(f"{path / MANIFEST} does not read: {err}. Build it again.") from err
        except OSError as err:
            raise ArtifactError(
                f"{path / MANIFEST} must be readable, and is not: {err.strerror}. Give the folder to the user that "
                "runs the pipeline (chown -R), or move it away."
            ) from err
        if (manifest.format, manifest.asset, manifest.fingerprint) != (MANIFEST_FORMAT.present, asset, fingerprint_):
            raise CorruptArtifact(
                f"{path / MANIFEST} says format {manifest.format}, {manifest.asset} {manifest.fingerprint}; expected "
                f"format {MANIFEST_FORMAT.present}, {asset} {fingerprint_}. Build it again."
            )
        return Artifact(path, manifest)

    def verify(self, artifact: Artifact) -> None:
        """Compare every file with the manifest's size and hash, once per artifact.

        Raises:
            CorruptArtifact: a file is missing, changed or not in the manifest; all are named.
        """
        if _identity(artifact) in self._verified:
            return
        wrong = [f"{name}: {fault}" for name, fault in find_faults(artifact)]
        if wrong:
            raise CorruptArtifact(
                f"{artifact.path} does not match its manifest: {'; '.join(wrong)}. "
                f"Build {artifact.manifest.asset} again."
            )
        self._verified.add(_identity(artifact))

    def list_artifacts(self, on_fault: Callable[[ArtifactError], None] | None = None) -> Iterator[Artifact]:
        """All artifacts with a manifest that reads, oldest first within an asset.

        What is no artifact's folder by its name, or is a link, is passed over.

        Args:
            on_fault: Called with what is wrong with each other one; None: it is told.
        """
        for folder in find_folders(self.root, ASSET_FORM):
            found = []
            for path in find_folders(folder, FINGERPRINT_FORM):
                try:
                    found.append(self.load(folder.name, path.name))
                except ArtifactError as err:
                    if on_fault:
                        on_fault(err)
                    else:
                        self._tell(str(err))
            yield from sorted(found, key=lambda artifact: artifact.manifest.created_at)

    def remove(self, artifact: Artifact) -> None:
        """Take an artifact away at once, then its files; a trace of it stays."""
        manifest = artifact.manifest
        with lock_file(self.root / "_locks" / f"{manifest.asset}-{manifest.fingerprint}"):
            self.traces.leave(artifact)
            trash = self._sibling(artifact.path, "removed")
            artifact.path.rename(trash)
            shutil.rmtree(trash)
        self._log_path(manifest.asset, manifest.fingerprint).unlink(missing_ok=True)

    def find_swept(self) -> list[Path]:
        """What `sweep` would remove now."""
        left = ((path, path.parent / fingerprint_) for path, (_, fingerprint_) in self._find_left())
        found = [path for path, target in left if not self._is_to_come_back(path, target)]
        for folder in self._find_checkpoints():
            found += [folder] if _is_forsaken(folder) else find_scratch(folder)
        return found

    def sweep(self) -> None:
        """Remove what killed writers have left, also of keys that nobody builds again."""
        for _left, key in self._find_left():
            self._recover(*key)
        for folder in self._find_checkpoints():
            if _is_forsaken(folder):
                shutil.rmtree(folder, ignore_errors=True)
            else:
                remove_scratch(folder)

    def require_space(self, size_bytes: int, purpose: str) -> None:
        """Raise `DiskSpaceError` unless the store's disk has this many bytes free."""
        require_space(self.root, size_bytes, purpose)

    def log_path(self, key: ArtifactKey) -> Path:
        """Where the words of this artifact's process go."""
        return self._log_path(key.asset, key.fingerprint)

    def checkpoint_path(self, key: ArtifactKey) -> Path:
        """Where the process that makes this artifact keeps what it goes on from if it is cut off."""
        return self.root / "_checkpoints" / f"{key.asset}-{key.fingerprint}"

    def _log_path(self, asset: str, fingerprint_: str) -> Path:
        return self.root / "_logs" / f"{asset}-{fingerprint_}.log"

    def _tell_once(self, sentence: str) -> Callable[[float], None]:
        untold = [sentence]
        return lambda _waited: self._tell(untold.pop()) if untold else None

    def _find_whole(self, key: ArtifactKey) -> Artifact | None:
        try:
            artifact = self.load(key.asset, key.fingerprint)
            self.verify(artifact)
        except MissingArtifact:
            return None
        except CorruptArtifact as err:
            self._tell(f"{err} It is built anew now.")
            return None
        return artifact

    def _path(self, asset: str, fingerprint_: str) -> Path:
        for name in (asset, fingerprint_):
            if not _SAFE_NAME.fullmatch(name):
                raise ArtifactError(f"an artifact's name must match {_SAFE_NAME.pattern}, got {name!r}")
        folder = self.root / asset
        if folder.is_symlink() or folder.is_file():
            raise ArtifactError(
                f"{folder} must be a folder of the store itself, and is a file or a link. Move it away; to have "
                "artifacts on another disk, set FT_PIPELINE_ARTIFACTS to a folder there."
            )
        return folder / fingerprint_

    def _lock_path(self, key: ArtifactKey) -> Path:
        return self.root / "_locks" / f"{key.asset}-{key.fingerprint}"

    @staticmethod
    def _sibling(path: Path, kind: str) -> Path:
        return path.with_name(f".{path.name}.{kind}-{secrets.token_hex(4)}")

    @contextmanager
    def _held(self, key: ArtifactKey, lock: int) -> Iterator[None]:
        self._building[key.fingerprint] = lock
        try:
            yield
        finally:
            del self._building[key.fingerprint]

    @contextmanager
    def _draft(self, key: ArtifactKey) -> Iterator[Path]:
        draft = self._sibling(self._path(key.asset, key.fingerprint), "draft")
        draft.mkdir(parents=True)
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _swap_in(self, draft: Path, target: Path) -> None:
        replaced = self._sibling(target, "replaced")
        if os.path.lexists(target):
            target.rename(replaced)
        draft.rename(target)
        sync(target.parent)
        remove_path(replaced, ignore_errors=True)

    def _find_left(self) -> Iterator[tuple[Path, tuple[str, str]]]:
        """What dead writers have not finished, or not finished removing, and the key that it is of, which is held."""
        for folder in find_folders(self.root, ASSET_FORM):
            for left, fingerprint_ in _list_left(folder):
                with try_lock_of_anybody(self.root / "_locks" / f"{folder.name}-{fingerprint_}") as is_free:
                    if is_free:
                        yield left, (folder.name, fingerprint_)

    def _find_checkpoints(self) -> Iterator[Path]:
        """Folders of checkpoints of trainings that nobody is at, each held."""
        for folder in find_folders(self.root, "_checkpoints", KEY_FORM):
            with try_lock_of_anybody(self.root / "_locks" / folder.name) as is_free:
                if is_free:
                    yield folder

    @staticmethod
    def _is_to_come_back(left: Path, target: Path) -> bool:
        """Whether it is an artifact whose successor was never put in its place."""
        return left.name.startswith(f".{target.name}.replaced-") and not os.path.lexists(target)

    def _recover(self, asset: str, fingerprint_: str) -> None:
        """Clear up after a writer of this key that was killed; its lock must be held."""
        target = self._path(asset, fingerprint_)
        for left in (path for path, of in _list_left(target.parent) if of == fingerprint_):
            if self._is_to_come_back(left, target):
                left.rename(target)
            else:
                remove_path(left, ignore_errors=True)  # its writer's child may still be on its way out


def _list_left(folder: Path) -> list[tuple[Path, str]]:
    """What writers have in an asset's folder beside its artifacts, each with the fingerprint that it is of."""
    found = ((path, _LEFT.fullmatch(path.name)) for path in sorted(folder.glob(".*")))
    return [(path, match[1]) for path, match in found if match]


def _is_forsaken(checkpoints: Path) -> bool:
    return time.time() - checkpoints.stat().st_mtime > _CHECKPOINT_DAYS * 86400


def _identity(artifact: Artifact) -> tuple[Path, int]:
    return artifact.path, artifact.path.stat().st_ino
