"""The files of a champion: in the store, or brought back to it from the published folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.artifact import Artifact, ArtifactKey, Manifest, Written, read_manifest
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.durable import link_or_copy
from ft_pipeline.errors import ArtifactError, MissingArtifact, NewerFormat
from ft_pipeline.publishing.alias import JudgedModel
from ft_pipeline.publishing.folder import PublishedFolder, find_faults, read_sums
from ft_pipeline.quantization.files import find_gguf

ASSET = "gguf_model"


@dataclass(frozen=True)
class ChampionFiles:
    """A model that ships.

    Attributes:
        artifact: All its files.
        name: What they are called.
        quantization: The type that is gated, the first of its recipe.
    """

    artifact: Artifact
    name: str
    quantization: str

    @property
    def gguf(self) -> Path:
        """The file of the gated type, or the first of its parts."""
        return find_gguf(self.artifact.path, self.name, self.quantization)


def describe_files(artifact: Artifact) -> ChampionFiles:
    """What the files of a `gguf_model` are called."""
    ingredients = artifact.manifest.ingredients
    return ChampionFiles(artifact, ingredients["name"], ingredients["quantization"]["types"][0])


def find_champion_files(store: ArtifactStore, folder: PublishedFolder, gguf_model: str) -> ChampionFiles:
    """The files of a champion, every byte compared with the manifest.

    What the store has lost comes back from the published folder, if it is whole there.

    Args:
        store: The store.
        folder: The recipe's published folder.
        gguf_model: Fingerprint of the champion.

    Raises:
        MissingArtifact: they are gone from both, or damaged in both.
        NewerFormat: a newer version has built them.
    """
    try:
        artifact = store.load(ASSET, gguf_model)
        store.verify(artifact)
    except NewerFormat:
        raise
    except ArtifactError as err:
        artifact = _restore(store, folder.version(gguf_model), gguf_model, str(err).rstrip("."))
    return describe_files(artifact)


def has_files(store: ArtifactStore, folder: PublishedFolder, gguf_model: str) -> bool:
    """Whether `find_champion_files` would find them."""
    try:
        store.verify(store.load(ASSET, gguf_model))
    except ArtifactError:
        return not find_faults(folder.version(gguf_model))
    return True


def write_champion(recipe_name: str, model: JudgedModel, artifact: Artifact) -> str:
    """The text of champion.json, for programs that look at the published folder."""
    files = describe_files(artifact)
    facts = {"format": 1, "recipe": recipe_name, **model.model_dump(mode="json")}
    facts |= {"quantization": files.quantization, "gguf": files.gguf.name}
    return json.dumps(facts, indent=1) + "\n"


def _restore(store: ArtifactStore, version: Path, gguf_model: str, why: str) -> Artifact:
    """Build the artifact again from its published copy."""
    if not version.exists():
        raise _gone(gguf_model, why, f"there is no copy in {version}")
    if faults := find_faults(version):
        raise _gone(gguf_model, why, f"the copy in {version} is damaged: {'; '.join(faults)}")
    manifest = _read_manifest(version)
    key = ArtifactKey(ASSET, manifest.ingredients, manifest.upstream) if manifest else None
    sums = read_sums(version)
    if not manifest or not key or key.fingerprint != gguf_model or not _has_all(manifest, sums):
        raise _gone(gguf_model, why, f"the copy in {version} is of another model")

    def write(draft: Path) -> Written:
        for name in manifest.files:
            link_or_copy(version / name, draft / name)
        return Written(manifest.summary, manifest.peak_rss_bytes, manifest.notes)

    return store.build(key, write)


def _has_all(manifest: Manifest, sums: dict[str, str]) -> bool:
    return all(sums.get(name) == record.sha256 for name, record in manifest.files.items())


def _read_manifest(version: Path) -> Manifest | None:
    try:
        return read_manifest(version)
    except (OSError, ValueError):
        return None


def _gone(gguf_model: str, why: str, besides: str) -> MissingArtifact:
    return MissingArtifact(
        f"the files of the champion {gguf_model} are gone: {why}; and {besides}. Put them back from a backup, or go to "
        "another model: make history lists them, make rollback TO=FINGERPRINT goes there."
    )
