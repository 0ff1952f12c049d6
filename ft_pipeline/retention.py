"""What stays on disk: what the champions are made of, what live runs need, and what the last runs have made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ft_pipeline.artifacts import Artifact, ArtifactStore
from ft_pipeline.errors import ArtifactError
from ft_pipeline.run_record import PastRun, RunFolder

_Key = tuple[str, str]
# 16-bit weights are as large as all the rest together and can be merged again from the adapter.
_OF_THE_LAST_RUN_ONLY = "merged_model"
_RECORDS_KEPT = timedelta(days=30)


@dataclass(frozen=True)
class Collected:
    """What a collection has removed."""

    removed: tuple[str, ...]
    freed_bytes: int


def collect_garbage(
    store: ArtifactStore, published: Iterable[_Key], *, keep_last: int | None = None, dry_run: bool = False
) -> Collected:
    """Remove artifacts that no champion, no live run and none of a recipe's last runs was made with.

    Args:
        store: The store.
        published: Asset and fingerprint of what must stay, with all that it was made from.
        keep_last: How many runs of each recipe count; None: what the recipe says.
        dry_run: Only say what would go.
    """
    runs = RunFolder(store.root)
    with runs.guard():
        past = list(runs.list_runs())
        kept = _reachable(store, [*published, *(key for run in past if run.is_live for key in run.record.artifacts)])
        kept |= _of_last_runs(store, past, kept, keep_last)
        removed, freed = [], 0
        for artifact in store.list_artifacts():
            if _key(artifact) in kept:
                continue
            freed += artifact.size_bytes
            removed.append("/".join(_key(artifact)))
            if not dry_run:
                store.remove(artifact)
        if not dry_run:
            store.sweep()
            _forget_old(runs, past)
    return Collected(tuple(removed), freed)


def _of_last_runs(store: ArtifactStore, past: list[PastRun], kept: set[_Key], keep_last: int | None) -> set[_Key]:
    """What the last runs of each recipe have made. A run that made nothing of its own does not count."""
    found: set[_Key] = set()
    counts: Counter[str] = Counter()
    for run in past:
        recipe = run.record.recipe
        if counts[recipe.name] >= (keep_last or recipe.retention.keep_last):
            continue
        made = _reachable(store, run.record.artifacts)
        if counts[recipe.name]:
            made = {key for key in made if key[0] != _OF_THE_LAST_RUN_ONLY}
        if made - kept - found:
            counts[recipe.name] += 1
            found |= made
    return found


def _forget_old(runs: RunFolder, past: list[PastRun]) -> None:
    oldest = datetime.now(UTC) - _RECORDS_KEPT
    for run in past:
        if not run.is_live and run.record.began_at < oldest:
            runs.forget(run.id)


def _key(artifact: Artifact) -> _Key:
    return artifact.manifest.asset, artifact.manifest.fingerprint


def _reachable(store: ArtifactStore, roots: Iterable[_Key]) -> set[_Key]:
    found: set[_Key] = set()
    todo = list(roots)
    while todo:
        asset, fingerprint = key = todo.pop()
        if key in found:
            continue
        try:
            todo.extend(store.load(asset, fingerprint).manifest.upstream.items())
        except ArtifactError:
            continue  # not built yet, or retention or a person took it: nothing is reached through it
        found.add(key)
    return found
