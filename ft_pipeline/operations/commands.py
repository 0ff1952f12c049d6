"""`python -m ft_pipeline gc|backup|restore`."""

from __future__ import annotations

from pathlib import Path

import click

from ft_pipeline import environment
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.errors import CorruptArtifact, ResourceError
from ft_pipeline.listing import name_some
from ft_pipeline.operations.backup import back_up
from ft_pipeline.operations.restore import restore as restore_store
from ft_pipeline.operations.sizes import measure_store, render_sizes
from ft_pipeline.ownership import require_owner
from ft_pipeline.retention import collect_garbage

_SHOWN = 10


def _store() -> ArtifactStore:
    root = environment.artifacts_folder()
    require_owner(root)
    return ArtifactStore(root, tell=click.echo)


@click.command()
@click.option("--keep-last", type=click.IntRange(1), help="Runs of each recipe that count; else what the recipe says.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def gc(keep_last: int | None, dry_run: bool) -> None:
    """Show what is on the disk and why, and remove what no champion, no live run and none of the last runs needs."""
    store = _store()
    collected = collect_garbage(store, keep_last=keep_last, dry_run=True)
    for line in render_sizes(measure_store(store.root, collected), store.root):
        click.echo(line)
    if not dry_run:
        collected = collect_garbage(store, keep_last=keep_last)
    for path in collected.going:
        if path not in collected.stuck:
            click.echo(f"{'would go' if dry_run else 'gone'}: {path.relative_to(store.root)}")
    click.echo(f"{collected.freed_bytes / 2**20:.1f} MiB {'would be' if dry_run else 'are'} free")
    if collected.stuck:
        raise ResourceError(
            f"what nobody needs must be removable, and this is not: {name_some([*map(str, collected.stuck)], _SHOWN)}. "
            "Give it to the user that runs the pipeline (chown -R), and run this again."
        )


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--champions-only", is_flag=True, help="Only what published models are made of, without 16-bit weights.")
@click.option("--keep", type=click.IntRange(1), help="Afterwards remove all but so many of the newest backups there.")
def backup(folder: Path, champions_only: bool, keep: int | None) -> None:
    """Write what the artifact store must not lose into one file in FOLDER; runs may be going on."""
    done = back_up(_store(), folder, champions_only=champions_only, keep=keep)
    size = done.contents.size_bytes / 2**20
    click.echo(f"{done.path}: {len(done.contents.artifacts)} artifacts, {size:.1f} MiB, read back and whole")
    for path in done.removed:
        click.echo(f"{path} is gone")
    if done.left_out:
        raise CorruptArtifact(
            f"the backup is made, but without what is damaged and no champion needs: {'; '.join(done.left_out)}. make "
            "verify names it; remove those folders, and the next run builds anew what it needs of them."
        )


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def restore(file: Path) -> None:
    """Fill the empty artifact store from the backup FILE, and show its champions in the published folder."""
    store_root = _store().root
    contents = restore_store(file, store_root, environment.published_folder(store_root))
    click.echo(f"{store_root}: {len(contents.artifacts)} artifacts as of {contents.created_at:%Y-%m-%d %H:%M} UTC")
