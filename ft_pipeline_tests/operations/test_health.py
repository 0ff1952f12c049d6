from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ft_pipeline.finetuning.architecture import read_architecture
from ft_pipeline.operations.finding import Finding
from ft_pipeline.operations.health import (
    count_needed_bytes,
    examine_disk,
    examine_locks,
    examine_names,
    examine_ollama,
    examine_store,
)
from ft_pipeline.recipe_file import load_recipe
from ft_pipeline_tests.publishing.small_models import Publishing, make_model, make_recipe


@pytest.fixture
def machine(tmp_path: Path) -> Publishing:
    """A machine with a champion."""
    machine = Publishing(tmp_path)
    machine.publish(1)
    return machine


def _examine(machine: Publishing) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine_store(machine.store.root, machine.published)}


def test_a_healthy_store_needs_no_fix(machine: Publishing) -> None:
    found = _examine(machine)
    assert [finding for finding in found.values() if finding.fix] == []
    assert machine.fingerprint(1) in found["champion of demo"].state


def test_a_store_that_is_not_there_yet_is_no_fault(tmp_path: Path) -> None:
    (found,) = examine_store(tmp_path / "artifacts", tmp_path / "published")
    assert found.fix == ""


@pytest.mark.parametrize("fault", ["gone from the store", "cut off", "link elsewhere", "file of the version"])
def test_a_champion_that_is_not_whole_is_named(machine: Publishing, fault: str) -> None:
    match fault:
        case "gone from the store":
            machine.lose(1)
        case "cut off":
            (make_model(machine.store, 1).path / "demo-Q4_K_M.gguf").write_text("d")
        case "link elsewhere":
            machine.link.unlink()
        case "file of the version":
            (machine.link / "Modelfile").unlink()
    found = _examine(machine)["champion of demo"]
    words = {
        "gone from the store": "is not in",
        "cut off": "is missing or cut off",
        "link elsewhere": "does not point to it",
        "file of the version": "lacks Modelfile",
    }
    assert words[fault] in found.state
    assert found.fix


@pytest.mark.parametrize("path", ["gguf_model/{}/manifest.json", "_aliases/demo.json"])
def test_what_a_newer_version_has_written_is_said(machine: Publishing, path: str) -> None:
    file = machine.store.root / path.format(machine.fingerprint(1))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 9}))
    assert any("newer version" in finding.state and finding.fix for finding in _examine(machine).values())


def test_what_is_no_artifact_is_named(machine: Publishing, tmp_path: Path) -> None:
    store = machine.store.root
    (store / "gguf_model/backup").touch()
    (store / f"gguf_model/{'a' * 24}").symlink_to(tmp_path)
    (store / "linked").symlink_to(tmp_path)
    (store / "gguf_model/.DS_Store").touch()
    (store / "lost+found").mkdir()  # of the file system, where a store is the root of a disk
    found = _examine(machine)["strange in the store"]
    assert found.state.endswith(f": gguf_model/{'a' * 24}, gguf_model/backup, linked")
    assert found.fix == f"move them out of {store}"
    assert _examine(machine)["artifact store"].fix == ""


def test_a_clock_that_is_behind_is_named(machine: Publishing) -> None:
    manifest = make_model(machine.store, 1).path / "manifest.json"
    later = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"created_at": later}))
    assert "time synchronization" in _examine(machine)["clock"].fix


def test_the_disk_is_compared_with_what_the_recipe_writes(project: Path, tmp_path: Path) -> None:
    recipe = load_recipe(project / "recipes/demo.yaml")
    found = examine_disk(tmp_path / "not/yet/there", recipe, project)
    assert found.fix == ""
    config = json.loads((project / "data/base_model/config.json").read_text())
    needed = count_needed_bytes(recipe, read_architecture(config))
    # What the check before training counts for the demo's export, and three checkpoints.
    assert 40_000_000 < needed < 120_000_000


def test_a_disk_that_is_too_small_is_named(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert "make gc" in examine_disk(tmp_path, load_recipe(project / "recipes/demo.yaml"), project).fix


def test_recipes_of_one_name_are_named(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    for file, name in {"a": "mine", "b": "other", "copy of a": "mine", "no name": "", "._a": "mine"}.items():
        (tmp_path / f"recipes/{file}.yaml").write_text(f"name: {name}\n")
    (tmp_path / "recipes/link.yaml").symlink_to("b.yaml")
    found = examine_names(tmp_path, tmp_path / "recipes/a.yaml")
    assert found.state.endswith(f"'mine' is that of {tmp_path}/recipes/a.yaml and {tmp_path}/recipes/copy of a.yaml")
    assert found.fix
    (tmp_path / "recipes/copy of a.yaml").unlink()
    assert not examine_names(tmp_path, tmp_path / "recipes/a.yaml").fix


def test_the_folder_of_locks_is_made_for_all_users(tmp_path: Path) -> None:
    assert examine_locks(tmp_path / "locks").fix == ""
    assert (tmp_path / "locks").stat().st_mode & 0o7777 == 0o1777


def test_a_folder_of_locks_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "FT_PIPELINE_LOCK_DIR" in examine_locks(tmp_path / "file/locks").fix


@pytest.mark.parametrize(("wanted", "is_fault"), [("never", False), ("auto", False), ("always", True)])
def test_ollama_must_be_there_only_where_it_is_always_told(
    wanted: str, is_fault: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert bool(examine_ollama(make_recipe(ollama=wanted)).fix) == is_fault


def test_it_reads_no_file_of_a_model(machine: Publishing) -> None:
    """Bytes are for `make verify`: of an 8B it would take minutes."""
    model = make_model(machine.store, 1).path / "demo-Q4_K_M.gguf"
    model.write_text(model.read_text().replace("demo", "dEmo"))
    assert _examine(machine)["champion of demo"].fix == ""


@pytest.mark.parametrize(
    "text", ['{"format": 1, "at": "2026-01-01T00:00:00", "path": "/b", "is_one_of_many": true}', "[" * 9999]
)
def test_a_note_of_the_last_backup_that_does_not_read_hides_no_champion(machine: Publishing, text: str) -> None:
    (machine.store.root / "_last_backup.json").write_text(text)
    found = _examine(machine)
    assert found["last backup"].fix
    assert "champion of demo" in found
