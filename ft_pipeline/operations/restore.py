"""A store from a backup: whole, or not there.

    <store>/_restore/files/...      what is unpacked, on the store's own disk
    <store>/_restore/moving.json    the backup's table, there while files go to their places

Who finds that table finds a restore that was cut off: what it names and is not in `files` any more is in its place, and
the next restore takes it back first.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Collection, Iterable
from pathlib import Path

from pydantic import ValidationError

from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.containment import is_inside
from ft_pipeline.disk_space import require_space
from ft_pipeline.durable import link_or_copy, remove_path, sync, sync_tree, write_file
from ft_pipeline.errors import ArtifactError, CorruptArtifact, MissingArtifact, PublicationError
from ft_pipeline.file_lock import lock_file
from ft_pipeline.leftovers import MOVING, RESTORE
from ft_pipeline.listing import name_some
from ft_pipeline.operations.backup import find_faults
from ft_pipeline.operations.contents import CONTENTS, CONTENTS_FORMAT, RECORDS, Contents
from ft_pipeline.operations.disk_faults import told_of_faults
from ft_pipeline.publishing.alias import alias_folder, alias_lock, list_recipes, read_state
from ft_pipeline.publishing.champion_files import find_champion_files, has_files, write_champion
from ft_pipeline.publishing.folder import PublishedFolder


def restore(backup: Path, store_root: Path, published: Path) -> Contents:
    """Fill an empty store from a backup, and show the champions in the published folder.

    Args:
        backup: The file.
        store_root: The store's folder; it may be another one than the backup is of.
        published: The folder that other programs take champions from.

    Raises:
        MissingArtifact: there is no such file.
        NewerFormat: a newer version has written it.
        CorruptArtifact: it is damaged, or holds what no backup holds.
        ArtifactError: the store is not empty, or a link in it leads out of it.
        DiskSpaceError: it does not fit.
        ResourceError: something cannot be read or written.
    """
    draft = store_root / RESTORE
    with told_of_faults("a restore"), lock_file(store_root / "_locks" / "restore"):
        if draft.is_symlink():  # no restore has made that, and another store's may lie behind it
            draft.unlink()
        _require_empty(store_root, _list_moved(draft))
        _take_back(store_root, draft)
        files = draft / "files"
        files.mkdir(parents=True, mode=0o700)
        try:
            contents = _unpack(backup, files)
            _require_champions(backup, files, published)
            write_file(draft / MOVING, contents.model_dump_json())
            _move_in(files, contents, store_root)
        except BaseException:
            _take_back(store_root, draft)
            raise
        (draft / MOVING).unlink()
        remove_path(draft, ignore_errors=True)
        _show_champions(ArtifactStore(store_root), published)
    return contents


def _list_moved(draft: Path) -> list[str]:
    """What a restore that was cut off has put into its place."""
    try:
        contents = CONTENTS_FORMAT.read(draft / MOVING, Contents)
    except FileNotFoundError:
        return []
    except ValueError as err:
        raise CorruptArtifact(f"{draft / MOVING} does not read: {_say(err)}. Move the whole store away.") from err
    return [name for name in contents.files if not (draft / "files" / name).exists()]


def _require_empty(store_root: Path, moved: Collection[str]) -> None:
    """Nothing may be there that a run has made or asked for, or a person; caches and what only sensors note may."""
    ours = {_unit(name) for name in moved}
    found = [
        *(path for path in store_root.glob("[a-z]*/*") if path.is_dir()),
        *(path for kind in ("_aliases", "_runs") for path in (store_root / kind).glob("[!.]*.json")),
    ]
    there = [path for path in found if path.relative_to(store_root).as_posix() not in ours]
    if there:
        named = name_some([str(path.relative_to(store_root)) for path in there], 1)
        raise ArtifactError(
            f"a backup is restored into an empty store, and {store_root} holds {named}. Move it away, or set "
            "FT_PIPELINE_ARTIFACTS to another folder."
        )


def _unit(name: str) -> str:
    """What goes to its place at once: an artifact's folder, or a record's file."""
    kind, rest = name.split("/", 1)
    return name if kind in RECORDS else f"{kind}/{rest.partition('/')[0]}"


def _place(unit: str, store_root: Path) -> Path:
    """Where that belongs; a link in the store could lead out of it."""
    path = store_root / unit
    if not is_inside(path, [store_root]):
        raise ArtifactError(
            f"a restore must stay within {store_root}, and {path} leads to {path.resolve()}. Remove the link, or set "
            "FT_PIPELINE_ARTIFACTS to another folder."
        )
    return path


def _take_back(store_root: Path, draft: Path) -> None:
    """As if that restore had not begun; aliases first."""
    for unit in sorted({_unit(name) for name in _list_moved(draft)}):
        remove_path(_place(unit, store_root))
    (draft / MOVING).unlink(missing_ok=True)
    remove_path(draft, ignore_errors=True)


def _unpack(backup: Path, files: Path) -> Contents:
    contents = _read_contents(backup, files)
    if faults := find_faults(backup, contents):
        raise CorruptArtifact(f"{backup} is damaged: {'; '.join(faults)}. Take an earlier backup.")
    require_space(files, backup.stat().st_size, "what the backup holds")
    with tarfile.open(backup, "r:") as archive:
        _extract((member for member in archive if member.name in contents.files), archive, files)
    sync_tree(files)
    return contents


def _extract(members: Iterable[tarfile.TarInfo], archive: tarfile.TarFile, files: Path) -> None:
    """Members that were looked at, as regular files; tarfile has no filters in Python 3.11.2, which is Debian's."""
    for member in members:
        path = files / member.name
        if path.exists():  # the same twice
            continue
        if member.islnk():
            link_or_copy(files / member.linkname, path)
        elif stream := archive.extractfile(member):
            path.parent.mkdir(parents=True, exist_ok=True)
            with stream, path.open("xb") as target:
                shutil.copyfileobj(stream, target)
            path.chmod(member.mode & 0o755 | 0o600)


def _read_contents(backup: Path, scratch: Path) -> Contents:
    try:
        with tarfile.open(backup, "r:") as archive:
            first = archive.next()
            if first is None or first.name != CONTENTS or not first.isfile() or first.issparse():
                raise CorruptArtifact(f"{backup} is no backup of ft_pipeline: it must begin with {CONTENTS}.")
            _extract([first], archive, scratch)
        contents = CONTENTS_FORMAT.read(scratch / CONTENTS, Contents)
    except FileNotFoundError as err:
        raise MissingArtifact(f"there is no backup {backup}.") from err
    except (tarfile.TarError, ValueError, RecursionError) as err:
        raise CorruptArtifact(
            f"{backup} is no backup of ft_pipeline, or is damaged: {_say(err)}. Take another one."
        ) from err
    (scratch / CONTENTS).unlink()
    return contents


def _say(err: Exception) -> str:
    if not isinstance(err, ValidationError):
        return str(err)
    faults = [(".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")) for fault in err.errors()]
    return "; ".join(f"{place or 'the table'}: {words}" for place, words in faults)


def _require_champions(backup: Path, files: Path, published: Path) -> None:
    """An alias that does not read, or whose champion is nowhere, would be found when all is in its place."""
    aliases, store = alias_folder(files), ArtifactStore(files)
    for name in list_recipes(aliases):
        try:
            champion = read_state(aliases, name).champion
        except PublicationError as err:
            words = str(err).replace(f"{files}/", "")
            raise CorruptArtifact(f"{backup} cannot be restored: {words} Or take another backup.") from err
        if champion and not has_files(store, PublishedFolder(published, files, name), champion.gguf_model):
            raise CorruptArtifact(
                f"{backup} cannot be restored: the champion of {name}, {champion.gguf_model}, is neither in it nor "
                f"whole in {published}. Take another backup."
            )


def _move_in(files: Path, contents: Contents, store_root: Path) -> None:
    """Artifacts first, then the records, the aliases last: nobody is champion before its files are there."""
    units = sorted({_unit(name) for name in contents.files})
    _move([unit for unit in units if unit.partition("/")[0] not in RECORDS], files, store_root)
    for kind in reversed(RECORDS):
        _move([unit for unit in units if unit.partition("/")[0] == kind], files, store_root)
    runs = _place("_runs", store_root)
    runs.mkdir(exist_ok=True)
    runs.chmod(0o700)


def _move(units: list[str], files: Path, store_root: Path) -> None:
    targets = [_place(unit, store_root) for unit in units]
    for unit, target in zip(units, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        (files / unit).replace(target)
    for folder in {target.parent for target in targets}:
        sync(folder)
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
