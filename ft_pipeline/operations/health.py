"""Whether a store, its champions and the machine around it are as a pipeline that is left alone needs them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ft_pipeline.artifact import Artifact
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.base_model import open_base, read_config
from ft_pipeline.errors import PipelineError
from ft_pipeline.finetuning.architecture import Architecture, read_architecture
from ft_pipeline.finetuning.disk_need import count_disk_bytes
from ft_pipeline.finetuning.lease import make_lock_folder
from ft_pipeline.listing import name_some
from ft_pipeline.operations.backup_folder import read_last_backup
from ft_pipeline.operations.finding import Finding
from ft_pipeline.publishing.alias import alias_folder, list_recipes, read_state
from ft_pipeline.publishing.champion_files import ASSET
from ft_pipeline.publishing.folder import PublishedFolder, read_sums
from ft_pipeline.publishing.ollama import find_absence
from ft_pipeline.quantization.disk_need import count_export_bytes
from ft_pipeline.quantization.types import TYPES
from ft_pipeline.recipe import Recipe
from ft_pipeline.recipe_file import find_namesakes, list_recipe_files
from ft_pipeline.store_names import ASSET_FORM, KEY_FORM, find_folders, find_strangers

_GIB = 2**30
_HALF_PRECISION_BYTES = 2
_BACKUP_DAYS = 8  # who makes them once a week is a day late
_CLOCK_SLACK = timedelta(minutes=5)
_SHOWN_STRANGERS = 5


def examine_disk(store_root: Path, recipe: Recipe, root: Path) -> Finding:
    """Whether the disk holds what a run of a recipe writes that finds nothing made already, its rows left out."""
    folder = store_root
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    try:
        needed = count_needed_bytes(recipe, read_architecture(read_config(open_base(recipe.base_model, root).path)))
    except PipelineError as err:
        return Finding("free disk", f"{free / _GIB:.1f} GiB; what the recipe needs is not known: {err}")
    fix = "" if free >= needed else "make gc frees some; or set FT_PIPELINE_ARTIFACTS to another disk"
    return Finding("free disk", f"{free / _GIB:.1f} GiB; a run from scratch writes about {needed / _GIB:.2f}", fix)


def count_needed_bytes(recipe: Recipe, architecture: Architecture) -> int:
    """About what a run writes that finds nothing made already, its rows left out."""
    weights = architecture.total_parameters
    sizes = [round(weights * TYPES[name].bits_per_weight / 8) for name in recipe.quantization.types]
    export = count_export_bytes(weights * _HALF_PRECISION_BYTES, sizes, split_gib=recipe.quantization.split_gib)
    return sum(export.values()) + count_disk_bytes(architecture, recipe.training, "adamw_torch", tokens=0)


def examine_locks(lock_dir: Path) -> Finding:
    """Whether the folder by which processes of this machine take turns on a device can be used."""
    try:
        make_lock_folder(lock_dir)
    except PipelineError as err:
        return Finding("locks of devices", str(err), "set FT_PIPELINE_LOCK_DIR, the same for all that use the device")
    fix = "" if os.access(lock_dir, os.W_OK | os.X_OK) else f"chmod 1777 {lock_dir}: all users take turns by it"
    return Finding("locks of devices", str(lock_dir), fix)


def examine_store(store_root: Path, published: Path) -> Iterator[Finding]:
    """Look at what a store holds, its champions above all; sizes are compared, bytes are `make verify`'s to read."""
    if not store_root.is_dir():
        yield Finding("artifact store", f"{store_root} is not there yet")
        return
    faults: list[str] = []
    store = ArtifactStore(store_root, tell=faults.append)
    artifacts = list(store.list_artifacts())
    fix = "update ft_pipeline, or restore them from a backup, as each says" if faults else ""
    if not os.access(store_root, os.W_OK | os.X_OK):
        faults, fix = [f"{store_root} cannot be written"], "chown it to who runs the pipeline"
    yield Finding("artifact store", "; ".join(faults) or f"{len(artifacts)} artifacts in {store_root}", fix)
    if strangers := find_strangers(store_root):
        yield _describe_strangers(strangers, store_root)
    yield _examine_leftovers(store_root)
    yield _examine_clock(artifacts)
    yield _examine_backup(store_root)
    try:
        names = list_recipes(alias_folder(store_root))
        yield from (found for name in names if (found := _examine_champion(store, published, name)))
    except PipelineError as err:
        yield Finding("champions", str(err), "restore that file from a backup")


def examine_names(root: Path, named: Path) -> Finding:
    """Whether each recipe of a project, and the one that is named, has a name of its own."""
    faults = find_namesakes([named, *list_recipe_files(root)])
    fix = "give all but one of them another name" if faults else ""
    return Finding("names of recipes", "; ".join(faults.values()) or "each its own", fix)


def examine_ollama(recipe: Recipe) -> Finding:
    """Whether Ollama is there, where the recipe wants it told."""
    wanted = recipe.publishing.ollama
    if wanted == "never":
        return Finding("Ollama", "the recipe does not want it told")
    absence = find_absence()
    fix = "start Ollama, or set publishing.ollama to auto" if absence and wanted == "always" else ""
    return Finding("Ollama", absence or "answers", fix)


def _describe_strangers(strangers: list[Path], store_root: Path) -> Finding:
    names = name_some([str(path.relative_to(store_root)) for path in strangers], _SHOWN_STRANGERS)
    state = f"neither used, saved nor removed, for they are no folders of artifacts: {names}"
    return Finding("strange in the store", state, f"move them out of {store_root}")


def _examine_leftovers(store_root: Path) -> Finding:
    drafts = sum(1 for folder in find_folders(store_root, ASSET_FORM) for _ in folder.glob(".*.*-*"))
    checkpoints = len(find_folders(store_root, "_checkpoints", KEY_FORM))
    return Finding("unfinished", f"{drafts} drafts, {checkpoints} trainings with checkpoints; make gc takes dead ones")


def _examine_backup(store_root: Path) -> Finding:
    """Backups that nobody misses until one is needed: those that a timer makes are known by what `--keep` removes."""
    try:
        last = read_last_backup(store_root)
    except (PipelineError, ValueError, OSError) as err:
        return Finding("last backup", str(err), "make a backup, or update ft_pipeline")
    if last is None:
        return Finding("last backup", "none was made of this store")
    days = (datetime.now(UTC) - last.at).days
    is_late = last.is_one_of_many and days > _BACKUP_DAYS
    fix = "what makes them fails: journalctl -u ft_pipeline-backup, or cron's mail, says why"
    return Finding("last backup", f"{days} days ago: {last.path}", fix if is_late else "")


def _examine_clock(artifacts: list[Artifact]) -> Finding:
    now = datetime.now(UTC)
    newest = max((artifact.manifest.created_at for artifact in artifacts), default=now)
    shown = f"{now:%Y-%m-%d %H:%M} UTC"
    if newest <= now + _CLOCK_SLACK:
        return Finding("clock", shown)
    fix = "retention counts days by the clock, which is behind or was ahead: turn on time synchronization"
    return Finding("clock", f"{shown}, and an artifact is of {newest:%Y-%m-%d %H:%M}", fix)


def _examine_champion(store: ArtifactStore, published: Path, name: str) -> Finding | None:
    champion = read_state(alias_folder(store.root), name).champion
    if champion is None:
        return None
    subject, folder = f"champion of {name}", PublishedFolder(published, store.root, name)
    faults = _compare_sizes(store, champion.gguf_model)
    if folder.current != champion.gguf_model:
        faults.append(f"{folder.link} does not point to it")
    elif missing := [file for file in read_sums(folder.link) if not (folder.link / file).is_file()]:
        faults.append(f"{folder.link} lacks {', '.join(missing)}")
    if faults:
        return Finding(
            subject, "; ".join(faults), "make run lays it anew where it is whole in one place; make rollback; a backup"
        )
    return Finding(subject, f"{champion.gguf_model} since {champion.since:%Y-%m-%d}, in {folder.link}")


def _compare_sizes(store: ArtifactStore, gguf_model: str) -> list[str]:
    try:
        artifact = store.load(ASSET, gguf_model)
    except PipelineError as err:
        return [str(err)]
    files = artifact.manifest.files.items()
    paths = {name: artifact.path / name for name, _ in files}
    return [
        f"{paths[name]} is missing or cut off"
        for name, record in files
        if not paths[name].is_file() or paths[name].stat().st_size != record.size_bytes
    ]
