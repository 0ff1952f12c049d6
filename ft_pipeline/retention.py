"""What stays on disk: what the champions are made of, what live runs need, and what the last runs have made."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

from ft_pipeline.artifact import Artifact
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.errors import ArtifactError, CorruptArtifact, MissingArtifact, NewerFormat
from ft_pipeline.leftovers import find_leftovers, measure_files, remove_leftovers
from ft_pipeline.publishing.alias import alias_folder
from ft_pipeline.publishing.history import list_published
from ft_pipeline.recipe import RetentionSection
from ft_pipeline.run_record import PastRun, RunFolder

_Key = tuple[str, str]
Reason = Literal["published", "last runs", "live run", "new"]
REASONS: tuple[Reason, ...] = get_args(Reason)
_WEIGHTS, _REFERENCE = "merged_model", "f16_gguf"
_RECORDS_KEPT = timedelta(days=30)
# Artifacts that no run on record has asked for: of another version, or of a person.
_UNKNOWN_KEPT = timedelta(days=7)


@dataclass(frozen=True)
class Judged:
    """An artifact and why it stays; None: it goes."""

    artifact: Artifact
    reason: Reason | None


@dataclass(frozen=True)
class Collected:
    """What a collection has found, and removed if it was no dry run.

    Attributes:
        judged: All artifacts that were there.
        leftovers: What is no artifact and nobody uses any more.
        swept: What killed writers have left: drafts, and checkpoints of trainings that nobody goes on with.
        stuck: What of all that could not be removed.
        freed_bytes: Disk that all of it gives back; a file that is linked to what stays gives none.
    """

    judged: tuple[Judged, ...]
    leftovers: tuple[Path, ...]
    swept: tuple[Path, ...]
    stuck: tuple[Path, ...]
    freed_bytes: int

    @property
    def going(self) -> tuple[Path, ...]:
        """All that goes, artifacts first."""
        artifacts = (one.artifact.path for one in self.judged if one.reason is None)
        return (*artifacts, *self.leftovers, *self.swept)

    @property
    def removed(self) -> tuple[str, ...]:
        """Asset and fingerprint of the artifacts that go."""
        judged = (one for one in self.judged if one.reason is None and one.artifact.path not in self.stuck)
        return tuple("/".join(one.artifact.key) for one in judged)


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

    Raises:
        NewerFormat: a newer version has written something there; nothing is removed.
        CorruptArtifact: a published model is damaged; nothing is removed.
    """
    runs = RunFolder(store.root)
    with runs.guard():
        past = list(runs.list_runs())
        judged = judge_artifacts(store, past, keep_last=keep_last, evaluated=evaluated)
        leftovers, swept = find_leftovers(store.root), store.find_swept()
        seen: set[int] = set()
        for one in judged:
            if one.reason is not None:
                measure_files(one.artifact.path, seen)
        going = [one.artifact for one in judged if one.reason is None]
        sizes = {path: measure_files(path, seen) for path in [*(one.path for one in going), *leftovers, *swept]}
        stuck: list[Path] = []
        if not dry_run:
            stuck = _remove(store, going, leftovers, sizes)
            _forget_old(store, runs, past)
            store.traces.keep_only(_walk(store, (artifact.key for artifact in store.list_artifacts()))[1])
    freed = sum(size for path, size in sizes.items() if path not in stuck)
    freed -= sum(measure_files(path, set()) for path in stuck if path not in sizes)
    return Collected(tuple(judged), tuple(leftovers), tuple(swept), tuple(stuck), freed)


def _remove(
    store: ArtifactStore, going: list[Artifact], leftovers: list[Path], all_paths: Collection[Path]
) -> list[Path]:
    """Remove it all; what is still there, for it may be another user's."""
    for artifact in going:
        with suppress(OSError):  # what is left of it is found below
            store.remove(artifact)
    store.sweep()
    remove_leftovers(leftovers)
    new = (path for path in store.find_swept() if path not in all_paths)
    return [*(path for path in all_paths if os.path.lexists(path)), *new]


def judge_artifacts(
    store: ArtifactStore, past: list[PastRun], *, keep_last: int | None = None, evaluated: str | None = None
) -> list[Judged]:
    """Why each artifact of a store stays, if it does; the guard of the store's runs must be held.

    Args:
        store: The store.
        past: All its runs, newest first.
        keep_last: As of `collect_garbage`.
        evaluated: As of `collect_garbage`.
    """
    reasons: dict[_Key, Reason] = {}
    for run in past:
        if run.is_live:
            needed = _reachable(store, run.record.artifacts)
            reasons |= dict.fromkeys(_without(needed, _REFERENCE) if run.id == evaluated else needed, "live run")
    published = _without(_reachable(store, _list_published(store, past), refuse_damage=True), _WEIGHTS, _REFERENCE)
    for key in _of_last_runs(store, past, published, keep_last):
        reasons.setdefault(key, "last runs")
    reasons.update((key, "published") for key in published)
    mentioned = {key for run in past for key in run.record.artifacts}
    found = []
    for artifact in store.list_artifacts(_refuse_newer):
        key = artifact.key
        is_new = datetime.now(UTC) - artifact.manifest.created_at < _UNKNOWN_KEPT
        unknown: Reason | None = "new" if is_new and key not in mentioned else None
        found.append(Judged(artifact, reasons.get(key, unknown)))
    return found


def _refuse_newer(fault: ArtifactError) -> None:
    """What a newer artifact was made of, this version does not know: it might take some of it away."""
    if isinstance(fault, NewerFormat):
        raise fault


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
    """Records of runs that ended long ago, and of whose artifacts nothing is left but what later runs have used too."""
    oldest = datetime.now(UTC) - _RECORDS_KEPT
    left = {artifact.key for artifact in store.list_artifacts()}
    for run in past:  # newest first
        if not run.is_live and run.record.began_at < oldest and not left.intersection(run.record.artifacts):
            runs.forget(run.id)
        left.difference_update(run.record.artifacts)


def _reachable(store: ArtifactStore, roots: Iterable[_Key], *, refuse_damage: bool = False) -> set[_Key]:
    """Artifacts that are there and that the roots were made of, the roots among them."""
    return _walk(store, roots, refuse_damage=refuse_damage)[0]


def _walk(store: ArtifactStore, roots: Iterable[_Key], *, refuse_damage: bool = False) -> tuple[set[_Key], set[_Key]]:
    """What is there on the way from the roots up to all that they were made of, and what is not."""
    found: set[_Key] = set()
    absent: set[_Key] = set()
    todo = list(roots)
    while todo:
        asset, fingerprint = key = todo.pop()
        if key in found or key in absent:
            continue
        try:
            todo.extend(store.load(asset, fingerprint).manifest.upstream.items())
        except MissingArtifact:
            # Not built yet, or taken: 16-bit weights go before what they were made of and what was made of them.
            absent.add(key)
            todo.extend(store.traces.recall_upstream(asset, fingerprint).items())
            continue
        except CorruptArtifact:
            if refuse_damage:
                raise
            continue
        found.add(key)
    return found, absent
