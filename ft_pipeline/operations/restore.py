"""A store from a backup: whole, or not there."""

from __future__ import annotations

import secrets
import shutil
import tarfile
from pathlib import Path

from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.disk_space import require_space
from ft_pipeline.durable import sync, sync_tree
from ft_pipeline.errors import ArtifactError, CorruptArtifact, MissingArtifact
from ft_pipeline.operations.backup import CONTENTS, RECORDS, Contents, find_faults
from ft_pipeline.publishing.alias import alias_folder, alias_lock, list_recipes, read_state
from ft_pipeline.publishing.champion_files import find_champion_files, write_champion
from ft_pipeline.publishing.folder import PublishedFolder
from ft_pipeline.stored_format import StoredFormat

_FORMAT = StoredFormat()


def restore(backup: Path, store_root: Path, published: Path) -> Contents:
    """Fill an empty store from a backup, and show the champions in the published folder.

    Args:
        backup: The file.
        store_root: The store's folder; it may be another one than the backup is of.
        published: The folder that other programs take champions from.

    Raises:
        MissingArtifact: there is no such file.
        NewerFormat: a newer version has written it.
        CorruptArtifact: it is damaged.
        ArtifactError: the store is not empty.
        DiskSpaceError: it does not fit.
    """
    _require_empty(store_root)
    draft = store_root.with_name(f".{store_root.name}.restored-{secrets.token_hex(4)}")
    for left in store_root.parent.glob(f".{store_root.name}.restored-*"):
        shutil.rmtree(left, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        contents = _read_contents(backup, draft)
        if faults := find_faults(backup, contents):
            raise CorruptArtifact(f"{backup} is damaged: {'; '.join(faults)}. Take an earlier backup.")
        require_space(store_root, contents.size_bytes, "what the backup holds")
        with tarfile.open(backup, "r:") as archive:
            archive.extractall(draft, [archive.getmember(name) for name in contents.files], filter="data")
        sync_tree(draft)
        _move_in(draft, store_root)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _show_champions(ArtifactStore(store_root), published)
    return contents


def _require_empty(store_root: Path) -> None:
    there = [*store_root.glob("[a-z]*/*"), *alias_folder(store_root).glob("[!.]*.json")]
    if there:
        raise ArtifactError(
            f"a backup is restored into an empty store, and {store_root} holds {there[0].relative_to(store_root)}"
            f"{f' and {len(there) - 1} more' if len(there) > 1 else ''}. Move it away, or set FT_PIPELINE_ARTIFACTS to "
            "another folder."
        )


def _read_contents(backup: Path, scratch: Path) -> Contents:
    try:
        with tarfile.open(backup, "r:") as archive:
            first = archive.next()
            if first is None or first.name != CONTENTS or not first.isfile():
                raise CorruptArtifact(f"{backup} is no backup of ft_pipeline: it must begin with {CONTENTS}.")
            archive.extract(first, scratch, filter="data")
        contents = _FORMAT.read(scratch / CONTENTS, Contents)
    except FileNotFoundError as err:
        raise MissingArtifact(f"there is no backup {backup}.") from err
    except (tarfile.TarError, ValueError) as err:
        raise CorruptArtifact(f"{backup} is no backup of ft_pipeline, or is damaged: {err}.") from err
    (scratch / CONTENTS).unlink()
    return contents


def _move_in(draft: Path, store_root: Path) -> None:
    """Artifacts first, then the records, the aliases last: nobody is champion before its files are there."""
    store_root.mkdir(parents=True, exist_ok=True)
    artifacts = [path for path in draft.iterdir() if path.name not in RECORDS]
    for folder in [*artifacts, *(draft / kind for kind in reversed(RECORDS) if (draft / kind).is_dir())]:
        target = store_root / folder.name
        target.mkdir(exist_ok=True)
        for path in folder.glob("*"):
            path.rename(target / path.name)
        sync(target)
    (store_root / "_runs").mkdir(exist_ok=True)
    (store_root / "_runs").chmod(0o700)
    sync(store_root)


def _show_champions(store: ArtifactStore, published: Path) -> None:
    aliases = alias_folder(store.root)
    for name in list_recipes(aliases):
        with alias_lock(aliases, name):
            champion = read_state(aliases, name).champion
            if champion is None:
                continue
            folder = PublishedFolder(published, store.root, name)
            files = find_champion_files(store, folder, champion.gguf_model)
            folder.claim()
            folder.lay(files.artifact, write_champion(name, champion, files.artifact))
            folder.point_to(champion.gguf_model)
