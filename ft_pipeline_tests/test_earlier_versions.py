"""A store that earlier versions have written, and one that a newer one has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.artifact import ArtifactKey, Written
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.errors import ArtifactError, NewerFormat, PublicationError
from ft_pipeline.publishing.alias import alias_folder, read_state
from ft_pipeline.publishing.champion_files import find_champion_files
from ft_pipeline.publishing.folder import PublishedFolder
from ft_pipeline.retention import collect_garbage
from ft_pipeline.retraining.content import ContentFolder
from ft_pipeline.retraining.ledger import Ledger
from ft_pipeline.run_record import RunFolder
from ft_pipeline.summary import Summary

FIRST, SECOND = "mine-1", "mine-2"


@pytest.fixture
def store(tmp_path: Path, project: Path) -> ArtifactStore:
    root = tmp_path / "artifacts"
    shutil.copytree(project / "ft_pipeline_tests/stored_by_earlier_versions", root, ignore=lambda *_: ["README.md"])
    return ArtifactStore(root)


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _list_files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and "lock" not in str(p)}


def _find_champion(store: ArtifactStore) -> str:
    champion = read_state(alias_folder(store.root), "mine").champion
    assert champion
    return champion.gguf_model


def test_all_of_it_is_read_and_whole(store: ArtifactStore) -> None:
    def fail(fault: ArtifactError) -> None:
        raise fault

    artifacts = list(store.list_artifacts(fail))
    assert len(artifacts) == 8
    for artifact in artifacts:
        store.verify(artifact)
    assert len(read_state(alias_folder(store.root), "mine").history) == 2


def test_a_record_without_a_format_is_continued(store: ArtifactStore) -> None:
    record = RunFolder(store.root).read(SECOND)
    assert record
    assert record.recipe.name == "mine"
    assert record.format == 1


def test_how_often_things_were_built_anew_is_read_and_written_on(store: ArtifactStore) -> None:
    runs = RunFolder(store.root)
    assert runs.generations() == {"0123456789abcdef01234567": 2}
    runs.settle("89abcdef0123456701234567", 1)
    assert runs.generations() == {"0123456789abcdef01234567": 2, "89abcdef0123456701234567": 1}


def test_a_record_of_a_recipe_with_other_fields_still_keeps_what_its_run_made(store: ArtifactStore) -> None:
    runs = RunFolder(store.root)
    with pytest.raises(ArtifactError, match="no record of a run that this version reads"):
        runs.read(FIRST)
    outline = {run.id: run.record for run in runs.list_runs()}[FIRST]
    assert (outline.recipe.name, outline.recipe.retention.keep_last) == ("mine", 2)
    (store.root / "_aliases/mine.json").unlink()
    collect_garbage(store)
    left = {artifact.manifest.fingerprint for artifact in store.list_artifacts()}
    assert {fingerprint for asset, fingerprint in outline.artifacts if asset != "merged_model"} <= left


def test_the_content_that_was_trained_on_last_is_found_though_a_copy_in_it_counted(store: ArtifactStore) -> None:
    last = Ledger(store.root, "mine").read().last_trained
    assert last
    content = ContentFolder(store.root, "mine").read(last.data)
    assert sorted(encoding for _, encoding in content.training_files) == ["csv.gz", "jsonl"]


def test_a_content_that_a_newer_version_has_written_does_not_count_as_never_trained_on(store: ArtifactStore) -> None:
    (path,) = (store.root / "_retraining/mine/contents").iterdir()
    _edit(path, format=2)
    with pytest.raises(NewerFormat):
        ContentFolder(store.root, "mine").find(path.stem)


def test_a_collection_keeps_champion_and_earlier_champion(store: ArtifactStore) -> None:
    collect_garbage(store, keep_last=1)
    state = read_state(alias_folder(store.root), "mine")
    for event in state.history:
        store.verify(store.load("gguf_model", event.model.gguf_model))


def test_a_newer_artifact_is_neither_used_nor_built_over(store: ArtifactStore) -> None:
    artifact = store.load("gguf_model", _find_champion(store))
    _edit(artifact.path / "manifest.json", format=2, files_by_hash={})
    before = _list_files(store.root)
    manifest = artifact.manifest
    key = ArtifactKey(manifest.asset, manifest.ingredients, manifest.upstream)

    def write(_draft: Path) -> Written:
        raise AssertionError("nothing is to be built")

    with pytest.raises(NewerFormat, match="written by a newer version of ft_pipeline"):
        store.build(key, write)
    with pytest.raises(NewerFormat):
        store.require(key)
    folder = PublishedFolder(store.root.parent / "published", store.root, "mine")
    with pytest.raises(NewerFormat):
        find_champion_files(store, folder, manifest.fingerprint)
    assert _list_files(store.root) == before


@pytest.mark.parametrize("newer", ["manifest", "an artifact of no run", "record", "alias"])
def test_nothing_is_removed_from_a_store_that_a_newer_version_has_written_to(store: ArtifactStore, newer: str) -> None:
    match newer:
        case "manifest":
            _edit(store.root / "gguf_model" / _find_champion(store) / "manifest.json", format=2)
        case "an artifact of no run":
            artifact = store.build(ArtifactKey("gguf_model", {}, {}), _write)
            _edit(artifact.path / "manifest.json", format=2)
        case "record":
            _edit(store.root / "_runs/mine-1.json", format=2, artifacts={})
        case "alias":
            _edit(store.root / "_aliases/mine.json", format=2)
    before = _list_files(store.root)
    with pytest.raises((NewerFormat, PublicationError), match="written by a newer"):
        collect_garbage(store, keep_last=1)
    assert _list_files(store.root) == before


def test_newer_generations_are_not_written_over(store: ArtifactStore) -> None:
    path = store.root / "_runs/generations.json"
    path.write_text('{"format": 2}')
    with pytest.raises(NewerFormat):
        RunFolder(store.root).settle("0123456789abcdef01234567", 3)
    assert path.read_text() == '{"format": 2}'


def _write(draft: Path) -> Written:
    (draft / "file").write_text("x")
    return Written(Summary())
