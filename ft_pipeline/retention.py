"""What stays on disk: what the champions are made of, what live runs need, and what the last runs have made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ft_pipeline.artifact import Artifact
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.errors import CorruptArtifact, MissingArtifact
from ft_pipeline.publishing.alias import alias_folder
from ft_pipeline.publishing.history import list_published
from ft_pipeline.recipe import RetentionSection
from ft_pipeline.run_record import PastRun, RunFolder

_Key = tuple[str, str]
_WEIGHTS, _REFERENCE = "merged_model", "f16_gguf"
_RECORDS_KEPT = timedelta(days=30)
# Artifacts that no run on record has asked for: of another version, or of a person.
_UNKNOWN_KEPT = timedelta(days=7)


@dataclass(frozen=True)
class Collected:
    """What a collection has removed."""

    removed: tuple[str, ...]
    freed_bytes: int


def collect_garbage(
    store: ArtifactStore,
    *,
    keep_last: int | None = None,
    dry_run: bool = False,
    evaluated: str | None = None,
) -> Collected:
    """Remove artifacts that no published model, no live run and none of a recipe's last runs was made with.

    Args:
        store: The store.
        keep_last: How many runs of each recipe count; None: what the recipe says.
        dry_run: Only say what would go.
        evaluated: The run that collects, when its evaluation is done: it needs no 16-bit GGUF any more.
    """
    runs = RunFolder(store.root)
    with runs.guard():
        past = list(runs.list_runs())
        kept = _without(_reachable(store, _list_published(store, past), refuse_damage=True), _WEIGHTS, _REFERENCE)
        kept |= _of_last_runs(store, past, kept, keep_last)
        for run in past:
            if run.is_live:
                needed = _reachable(store, run.record.artifacts)
                kept |= _without(needed, _REFERENCE) if run.id == evaluated else needed
        mentioned = {key for run in past for key in run.record.artifacts}
        removed, freed = [], 0
        for artifact in store.list_artifacts():
            is_new = datetime.now(UTC) - artifact.manifest.created_at < _UNKNOWN_KEPT
            if _key(artifact) in kept or (is_new and _key(artifact) not in mentioned):
                continue
            freed += artifact.size_bytes
            removed.append("/".join(_key(artifact)))
            if not dry_run:
                store.remove(artifact)
        if not dry_run:
            store.sweep()
            _forget_old(store, runs, past)
    return Collected(tuple(removed), freed)


def _list_published(store: ArtifactStore, past: list[PastRun]) -> Iterator[_Key]:
    """What the aliases keep; how many earlier champions, the newest run of each recipe says."""
    keep = {run.record.recipe.name: run.record.recipe.retention.keep_champions for run in reversed(past)}
    return list_published(alias_folder(store.root), keep, default=RetentionSection().keep_champions)


def _of_last_runs(store: ArtifactStore, past: list[PastRun], kept: set[_Key], keep_last: int | None) -> set[_Key]:
    """What the last runs of each recipe have made. A run that made nothing of its own does not count."""
    found: set[_Key] = set()
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    for run in past:
        recipe = run.record.recipe
        if counts[recipe.name] >= (keep_last or recipe.retention.keep_last):
            continue
        made = _reachable(store, run.record.artifacts)
        if any(asset == "evaluation_report" for asset, _ in made):
            made = _without(made, _REFERENCE)
        if recipe.name in seen:
            made = _without(made, _WEIGHTS, _REFERENCE)
        seen.add(recipe.name)
        if _without(made, _WEIGHTS, _REFERENCE) - kept - found:
            counts[recipe.name] += 1
        found |= made
    return found


def _without(keys: set[_Key], *assets: str) -> set[_Key]:
    """Without 16-bit weights or GGUFs, which are as large as all the rest and can be made again from the adapter."""
    return {key for key in keys if key[0] not in assets}


def _forget_old(store: ArtifactStore, runs: RunFolder, past: list[PastRun]) -> None:
    """Records of runs that ended long ago, and of whose artifacts nothing is left."""
    oldest = datetime.now(UTC) - _RECORDS_KEPT
    left = {_key(artifact) for artifact in store.list_artifacts()}
    for run in past:
        if not run.is_live and run.record.began_at < oldest and not left.intersection(run.record.artifacts):
            runs.forget(run.id)


def _key(artifact: Artifact) -> _Key:
    return artifact.manifest.asset, artifact.manifest.fingerprint


def _reachable(store: ArtifactStore, roots: Iterable[_Key], *, refuse_damage: bool = False) -> set[_Key]:
    found: set[_Key] = set()
    todo = list(roots)
    while todo:
        asset, fingerprint = key = todo.pop()
        if key in found:
            continue
        try:
            todo.extend(store.load(asset, fingerprint).manifest.upstream.items())
        except MissingArtifact:
            continue  # not built yet, or retention or a person took it: nothing is reached through it
        except CorruptArtifact:
            if refuse_damage:
                raise
            continue
        found.add(key)
    return found
