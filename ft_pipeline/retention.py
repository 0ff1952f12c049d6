"""What stays on disk: what the aliases reach, and the last few of each asset."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from ft_pipeline.artifacts import Artifact, ArtifactStore
from ft_pipeline.errors import ArtifactError

# 16-bit weights are as large as all the rest together and can be merged again from the adapter.
_KEEP_LAST_OF = {"merged_model": 1}


@dataclass(frozen=True)
class Collected:
    """What a collection has removed."""

    removed: tuple[str, ...]
    freed_bytes: int


def collect_garbage(
    store: ArtifactStore, roots: Iterable[tuple[str, str]], keep_last: int, *, dry_run: bool = False
) -> Collected:
    """Remove artifacts that no root reaches and that are not among the last of their asset.

    Args:
        store: The store.
        roots: Asset and fingerprint of what must stay, with all that it was made from.
        keep_last: How many of each asset stay besides; of 16-bit merged models only one.
        dry_run: Only say what would go.
    """
    kept = _reachable(store, roots)
    removed, freed = [], 0
    for asset, found in groupby(store.list_artifacts(), key=lambda artifact: artifact.manifest.asset):
        artifacts = list(found)
        keep = min(keep_last, _KEEP_LAST_OF.get(asset, keep_last))
        for artifact in artifacts[: max(0, len(artifacts) - keep)]:
            if _key(artifact) in kept:
                continue
            freed += artifact.size_bytes
            removed.append("/".join(_key(artifact)))
            if not dry_run:
                store.remove(artifact)
    return Collected(tuple(removed), freed)


def _key(artifact: Artifact) -> tuple[str, str]:
    return artifact.manifest.asset, artifact.manifest.fingerprint


def _reachable(store: ArtifactStore, roots: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    todo = list(roots)
    while todo:
        asset, fingerprint = key = todo.pop()
        if key in found:
            continue
        found.add(key)
        try:
            todo.extend(store.load(asset, fingerprint).manifest.upstream.items())
        except ArtifactError:
            continue  # retention or a person took it: nothing is reached through it
    return found
