"""The folder that other programs take the champions from.

<published>/<recipe>                            a relative link to the champion's version, swapped at once
<published>/.versions/<recipe>-<fingerprint>/   one model, whole: its files, champion.json, SHA256SUMS
<published>/.versions/<recipe>.store            the store whose champion this is

Files are hard links of the store's where the disk can, copies elsewhere. Whoever writes here holds the recipe's lock. A
version that the link points to is mended file by file: it is never missing.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ft_pipeline.artifact import MANIFEST, Artifact
from ft_pipeline.disk_space import require_space
from ft_pipeline.durable import remove_path, sync, sync_tree, write_file
from ft_pipeline.errors import PublicationError
from ft_pipeline.fingerprint import hash_file
from ft_pipeline.store_names import FINGERPRINT_FORM

CHAMPION_FILE, SUMS_FILE = "champion.json", "SHA256SUMS"
_SUM = re.compile(r"([0-9a-f]{64})  (.+)")


class PublishedFolder:
    """One recipe's part of the published folder.

    Args:
        root: The folder.
        store_root: The artifact store that its champions come from.
        recipe_name: The recipe.
    """

    def __init__(self, root: Path, store_root: Path, recipe_name: str) -> None:
        self.link = root / recipe_name
        self._root = root
        self._versions = root / ".versions"
        self._store_root = store_root
        self._recipe = recipe_name

    @property
    def current(self) -> str | None:
        """Fingerprint of the model that the link points to; None where there is no link, or not the pipeline's own."""
        if not self.link.is_symlink():
            return None
        versions = re.escape(str(self._versions.relative_to(self._root)))
        ours = re.compile(rf"{versions}/{re.escape(self._recipe)}-({FINGERPRINT_FORM})")
        match = ours.fullmatch(str(self.link.readlink()))
        return match[1] if match else None

    def version(self, gguf_model: str) -> Path:
        """Where a model is, or would be."""
        return self._versions / f"{self._recipe}-{gguf_model}"

    def claim(self) -> None:
        """See that what is there is this store's own, before anything is moved.

        Raises:
            PublicationError: it is something else, or the folder cannot be written.
        """
        if os.path.lexists(self.link) and self.current is None:
            raise PublicationError(
                f"{self.link} must be a link that this pipeline makes, and is something else. Move it away, or set "
                "FT_PIPELINE_PUBLISHED to another folder."
            )
        owner = self._versions / f"{self._recipe}.store"
        here = os.path.relpath(self._store_root.resolve(), self._root.resolve())
        there = owner.read_text(encoding="utf-8") if owner.exists() else None
        if there not in {None, here} and self.link.is_symlink():
            raise PublicationError(
                f"{self.link} shows the champion of another artifact store, {self._root / str(there)}; this one is "
                f"{self._store_root}. Set FT_PIPELINE_PUBLISHED to another folder, or remove the link if that store is "
                "no longer used."
            )
        if there != here:
            with self._writing():
                write_file(owner, here)

    def lay(self, artifact: Artifact, champion: str) -> None:
        """Have a model's version lie there, whole and flushed.

        Of what lies there already, every byte that is not the store's own is read, and made right if it is wrong.

        Args:
            artifact: Its files, verified.
            champion: The text of its champion.json.

        Raises:
            PublicationError: the folder cannot be written.
            DiskSpaceError: the files must be copied, and the disk does not hold them.
        """
        target = self.version(artifact.manifest.fingerprint)
        if _is_laid(target, artifact, champion):
            return
        draft = self._sibling(target)
        with self._writing():
            try:
                self._fill(draft, artifact, champion)
                sync_tree(draft)
                if target.is_dir() and not target.is_symlink():
                    _mend(target, draft)
                else:
                    remove_path(target)
                    draft.rename(target)
                sync(self._versions)
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    def prepare_link(self, gguf_model: str) -> Path:
        """Lay a link to a version beside the link, for `point_to` to swap in: it shows that the folder can be written.

        Raises:
            PublicationError: it cannot.
        """
        link = self._root / f".{self._recipe}.link-{gguf_model}"
        with self._writing():
            if not link.is_symlink():
                link.symlink_to(self.version(gguf_model).relative_to(self._root), target_is_directory=True)
        return link

    def point_to(self, gguf_model: str) -> None:
        """Swap the link to a version that lies there, if it points elsewhere."""
        if self.current == gguf_model:
            return
        link = self.prepare_link(gguf_model)
        with self._writing():
            link.replace(self.link)
            sync(self._root)

    def prune(self, keep: Collection[str]) -> None:
        """Remove the recipe's other versions, and what killed writers have left."""
        name = re.escape(self._recipe)
        kept = {self.version(gguf_model).name for gguf_model in keep}
        is_version = re.compile(rf"{name}-{FINGERPRINT_FORM}")
        # Versions and owners that were not finished; links that were not swapped in, of an earlier version too.
        is_left = re.compile(
            rf"\.{name}(-{FINGERPRINT_FORM}\.draft-[0-9a-f]{{8}}|\.store\.[0-9a-f]{{8}}|\.link-([0-9a-f]{{8}}|{FINGERPRINT_FORM}))"
        )
        with self._writing():
            for path in [*self._versions.iterdir(), *self._root.iterdir()]:
                if is_left.fullmatch(path.name):
                    remove_path(path)
                elif is_version.fullmatch(path.name) and path.parent == self._versions and path.name not in kept:
                    left = self._sibling(path)
                    path.rename(left)
                    remove_path(left)

    def _fill(self, draft: Path, artifact: Artifact, champion: str) -> None:
        draft.mkdir(parents=True)
        is_copied = False
        for name in [*artifact.manifest.files, MANIFEST]:
            target = draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(artifact.path / name, target)
            except OSError:  # another disk, or one without links
                if not is_copied:
                    require_space(draft, artifact.size_bytes, f"{self.link}, a copy of the champion,")
                    is_copied = True
                shutil.copyfile(artifact.path / name, target)
        (draft / CHAMPION_FILE).write_text(champion, encoding="utf-8")
        hashes = {name: record.sha256 for name, record in artifact.manifest.files.items()}
        hashes |= {name: hash_file(draft / name) for name in (MANIFEST, CHAMPION_FILE)}
        (draft / SUMS_FILE).write_text(_write_sums(hashes), encoding="utf-8")

    def _sibling(self, path: Path) -> Path:
        return path.with_name(f".{path.name}.draft-{secrets.token_hex(4)}")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as err:
            raise PublicationError(
                f"the published folder {self._root} cannot be written: {err}. Mend that, or set FT_PIPELINE_PUBLISHED "
                "to another folder."
            ) from err


def read_sums(version: Path) -> dict[str, str]:
    """SHA-256 by file name, as a version's SHA256SUMS has them; empty where it is none."""
    try:
        lines = (version / SUMS_FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    found = [match for line in lines if (match := _SUM.fullmatch(line))]
    return {match[2]: match[1] for match in found}


def find_faults(version: Path, names: Collection[str] | None = None) -> list[str]:
    """What is not as a version's SHA256SUMS says; every byte is read.

    Args:
        version: The folder.
        names: Files to look at; None: all.
    """
    sums = read_sums(version)
    if not sums:
        return [f"{SUMS_FILE} is missing or damaged"]
    faults = []
    for name, sha256 in sums.items():
        path = version / name
        if names is not None and name not in names:
            continue
        if not path.is_file():
            faults.append(f"{name} is missing")
        elif hash_file(path) != sha256:
            faults.append(f"{name} has changed")
    return faults


def _is_laid(version: Path, artifact: Artifact, champion: str) -> bool:
    """Whether all is there as it must be; what is the same file as the store's was verified there."""
    sums = read_sums(version)
    if any(sums.get(name) != record.sha256 for name, record in artifact.manifest.files.items()):
        return False
    try:
        if (version / CHAMPION_FILE).read_text(encoding="utf-8") != champion:
            return False
    except (OSError, UnicodeDecodeError):
        return False
    own = {name for name in artifact.manifest.files if _is_same_file(version / name, artifact.path / name)}
    return {MANIFEST, CHAMPION_FILE} <= sums.keys() and not find_faults(version, sums.keys() - own)


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _mend(version: Path, draft: Path) -> None:
    """Put a draft's files in the place of a version's, one by one; who reads the version finds each old or new."""
    for path in [path for path in draft.rglob("*") if not path.is_dir()]:
        place = version / path.relative_to(draft)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            remove_path(place)
        path.replace(place)
    sync_tree(version)


def _write_sums(hashes: Mapping[str, str]) -> str:
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(hashes.items()))
