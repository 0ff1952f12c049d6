from __future__ import annotations

import errno
import io
import json
import os
import shutil
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ft_pipeline.__main__ import main
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.errors import (
    ArtifactError,
    CorruptArtifact,
    DiskSpaceError,
    MissingArtifact,
    NewerFormat,
    ResourceError,
)
from ft_pipeline.fingerprint import hash_file
from ft_pipeline.operations.backup import Backup, back_up
from ft_pipeline.operations.contents import CONTENTS
from ft_pipeline.operations.restore import restore
from ft_pipeline.publishing.folder import find_faults
from ft_pipeline.retraining.ledger import Judged, Ledger
from ft_pipeline.run_record import RunFolder
from ft_pipeline_tests.operations.conftest import list_files
from ft_pipeline_tests.publishing.small_models import Publishing, make_model
from ft_pipeline_tests.test_retention import Machine


def _rewrite(backup: Path, name: str, text: bytes) -> None:
    """Put another file into a backup in the place of one."""
    with tarfile.open(backup) as archive:
        members = [(member, archive.extractfile(member)) for member in archive]
        found = [(member, stream.read() if stream else b"") for member, stream in members]
    with tarfile.open(backup, "w") as archive:
        for member, content in found:
            member.type = tarfile.REGTYPE
            written = text if member.name == name else content
            member.size = len(written)
            archive.addfile(member, io.BytesIO(written))


def test_on_another_machine_everything_is_as_it_was(before: Publishing, saved: Backup, after: Publishing) -> None:
    restore(saved.path, after.store.root, after.published)
    assert list_files(after.store) == list_files(before.store)
    assert after.state == before.state
    assert after.sums() == before.sums()
    assert find_faults(after.link) == []
    for artifact in after.store.list_artifacts():
        after.store.verify(artifact)


def test_a_rollback_still_works_and_so_does_the_next_publication(saved: Backup, after: Publishing) -> None:
    restore(saved.path, after.store.root, after.published)
    after.roll_back()
    assert after.champion == after.fingerprint(1)
    assert after.publish(4).published


def test_it_may_be_made_over_a_store_that_was_wiped(before: Publishing, saved: Backup) -> None:
    files, sums = list_files(before.store), before.sums()
    shutil.rmtree(before.store.root)
    shutil.rmtree(before.published)
    restore(saved.path, before.store.root, before.published)
    assert (list_files(before.store), before.sums()) == (files, sums)


def test_records_of_runs_come_along_and_only_what_retention_keeps(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "store")
    for number in range(4):
        machine.run(number, keep_last=2)
    saved = back_up(machine.store, tmp_path)
    restore(saved.path, tmp_path / "new", tmp_path / "published")
    there = Machine(tmp_path / "new")
    assert there.left("gguf_model") == {("mine", 2), ("mine", 3)}
    assert there.left("merged_model") == {("mine", 3)}
    assert [run.id for run in there.runs.list_runs()] == [f"mine-{number}" for number in (3, 2, 1, 0)]
    assert (tmp_path / "new/_runs").stat().st_mode & 0o077 == 0, "what a recipe names is its owner's matter"


def test_what_retraining_has_learnt_of_the_data_comes_along(before: Publishing, tmp_path: Path) -> None:
    entry = Judged(
        data="d", outcome="kept", run="r", validated="v", contract="c", began_at=datetime.now(UTC), at=datetime.now(UTC)
    )
    Ledger(before.store.root, "mine").add(entry)
    restore(back_up(before.store, tmp_path / "backups").path, tmp_path / "new", tmp_path / "published")
    assert Ledger(tmp_path / "new", "mine").read().judged == (entry,)


def test_only_its_owner_reads_a_backup(saved: Backup) -> None:
    assert saved.path.stat().st_mode & 0o077 == 0


def test_champions_alone_are_less(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "store")
    ggufs = [machine.run(number) for number in range(3)]
    machine.publish(ggufs[0])
    saved = back_up(machine.store, tmp_path, champions_only=True)
    assert {asset for asset, _ in saved.contents.artifacts} == {"trained_adapter", "gguf_model", "evaluation_report"}
    assert [fingerprint for asset, fingerprint in saved.contents.artifacts if asset == "gguf_model"] == [ggufs[0]]


def test_after_a_restore_a_collection_still_finds_what_champions_are_made_of(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "store")
    machine.publish(machine.run(0, keep_last=1))
    machine.run(1, keep_last=1)
    saved = back_up(machine.store, tmp_path)
    there = Machine(tmp_path / "new")
    with tarfile.open(saved.path) as archive:  # its GGUF is none that could be published
        for member in archive:
            path = there.store.root / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]
    assert there.left("merged_model") == {("mine", 1)}
    there.collect()
    assert there.left("trained_adapter") == {("mine", 0), ("mine", 1)}


def test_a_file_with_two_names_is_in_it_once(tmp_path: Path) -> None:
    machine = Publishing(tmp_path / "before")
    machine.publish(1)
    artifact = make_model(machine.store, 1)
    one, other = artifact.path / "demo-Q4_K_M.gguf", artifact.path / "demo-Q8_0.gguf"
    assert one.stat().st_nlink > 1, "the published folder has it too"
    saved = back_up(machine.store, tmp_path)
    with tarfile.open(saved.path) as archive:
        names = archive.getnames()
    assert len(names) == len(set(names))
    assert other.stat().st_nlink == one.stat().st_nlink, "no link of the backup's is left"


def test_runs_go_on_meanwhile(before: Publishing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is saved is held by links: a collection in the middle takes nothing from the backup."""
    from ft_pipeline.operations import backup as module

    describe = module._describe

    def collect_meanwhile(*arguments: object) -> object:
        with RunFolder(before.store.root).guard():
            for artifact in list(before.store.list_artifacts()):
                before.store.remove(artifact)
        return describe(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_describe", collect_meanwhile)
    files = list_files(before.store)
    saved = back_up(before.store, tmp_path)
    restore(saved.path, tmp_path / "new", tmp_path / "published")
    assert list_files(ArtifactStore(tmp_path / "new")) == files


def test_a_damaged_champion_is_not_saved_as_if_it_were_whole(before: Publishing, tmp_path: Path) -> None:
    (make_model(before.store, 1).path / "README.md").write_text("somebody was here on purpose")
    with pytest.raises(CorruptArtifact, match=r"published model.*README\.md: 28 bytes.*make verify"):
        back_up(before.store, tmp_path / "backups")
    assert list((tmp_path / "backups").iterdir()) == []
    assert not (before.store.root / "_backup").exists()


@pytest.mark.parametrize("fault", ["a byte", "a file is gone"])
def test_a_damaged_artifact_that_no_champion_needs_is_left_out_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    machine = Machine(tmp_path / "store")
    machine.publish(machine.run(0))
    machine.run(1)
    kept = [one for one in machine.collect(dry_run=True).judged if one.reason]
    damaged = next(one.artifact for one in kept if one.reason == "last runs")
    if fault == "a byte":
        (damaged.path / "file").write_text("x2345")
    else:
        (damaged.path / "file").unlink()
    monkeypatch.setenv("FT_PIPELINE_ARTIFACTS", str(machine.store.root))
    done = CliRunner().invoke(main, ["backup", str(tmp_path / "backups")])
    assert isinstance(done.exception, CorruptArtifact)
    assert f"{damaged.path}" in str(done.exception)
    (path,) = (tmp_path / "backups").iterdir()
    with tarfile.open(path) as archive:
        names = archive.getnames()
    folder = f"{damaged.manifest.asset}/{damaged.manifest.fingerprint}"
    assert not any(name.startswith(folder) for name in names)
    assert sum(name.endswith("/manifest.json") for name in names) == len(kept) - 1


def test_nobody_else_reads_the_records_of_runs_while_it_is_made(
    before: Publishing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ft_pipeline.operations import backup as module

    describe, modes = module._describe, []

    def look(staged: Any, created_at: datetime) -> object:
        modes.append(staged.folder.stat().st_mode & 0o777)
        return describe(staged, created_at)

    monkeypatch.setattr(module, "_describe", look)
    back_up(before.store, tmp_path / "backups")
    assert modes == [0o700]


@pytest.mark.parametrize("folder", ["/proc/nowhere", "{}/a file/backups"])
def test_a_folder_that_cannot_be_is_an_error_for_people(before: Publishing, tmp_path: Path, folder: str) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(ResourceError, match="Name another folder"):
        back_up(before.store, Path(folder.format(tmp_path)))


def test_a_disk_that_becomes_full_in_the_middle_is_an_error_for_people_and_leaves_nothing(
    before: Publishing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ft_pipeline.operations import backup as module

    def fail(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(module, "sync", fail)
    with pytest.raises(DiskSpaceError, match="became full"):
        back_up(before.store, tmp_path / "backups")
    assert list((tmp_path / "backups").iterdir()) == []


def test_a_backup_that_cannot_be_read_is_an_error_for_people(tmp_path: Path, after: Publishing) -> None:
    with pytest.raises(ResourceError, match="Name another folder"):
        restore(tmp_path, after.store.root, after.published)


def test_a_file_with_two_names_needs_room_once(
    before: Publishing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [before.store.root / "gguf_model" / before.fingerprint(number) / "big" for number in (1, 2)]
    one = 50 << 20
    with names[0].open("wb") as file:
        file.truncate(one)
    os.link(*names)
    for name in names:
        manifest = name.with_name("manifest.json")
        facts = json.loads(manifest.read_text())
        facts["files"]["big"] = {"sha256": hash_file(name), "size_bytes": one}
        manifest.write_text(json.dumps(facts))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=one + (1 << 20)))
    assert back_up(before.store, tmp_path / "backups").contents.size_bytes > 2 * one


def test_a_record_that_is_removed_meanwhile_is_not_in_it(before: Publishing, tmp_path: Path) -> None:
    (before.store.root / "_retraining").mkdir()
    (before.store.root / "_retraining/gone.json").symlink_to("nowhere")  # listed, and not there
    assert "_retraining/gone.json" not in back_up(before.store, tmp_path).contents.files


def test_what_a_killed_backup_has_left_goes_with_the_next(before: Publishing, tmp_path: Path) -> None:
    left = before.store.root / "_backup/gguf_model/0123"
    left.mkdir(parents=True)
    (left / "file").write_text("x")
    (tmp_path / ".ft_pipeline-20260101T000000Z.tar.draft").touch()
    saved = back_up(before.store, tmp_path)
    assert not any("0123" in name for name in saved.contents.files)
    assert not list(tmp_path.glob(".*.draft"))
    assert not (before.store.root / "_backup").exists()


def test_an_empty_store_is_nothing_to_save(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact, match="Run the pipeline first"):
        back_up(ArtifactStore(tmp_path / "store"), tmp_path)


def test_nothing_is_restored_over_what_is_there(saved: Backup, after: Publishing) -> None:
    after.publish(7)
    files = list_files(after.store)
    with pytest.raises(ArtifactError, match=r"into an empty store.*FT_PIPELINE_ARTIFACTS"):
        restore(saved.path, after.store.root, after.published)
    assert list_files(after.store) == files


@pytest.mark.parametrize("how", ["a byte", "cut off", "a file more", "no tar", "not there"])
def test_a_damaged_backup_leaves_nothing_behind(saved: Backup, after: Publishing, how: str) -> None:
    name = next(name for name in saved.contents.files if name.endswith("README.md"))
    match how:
        case "a byte":
            _rewrite(saved.path, name, b"R" * saved.contents.files[name].size_bytes)
        case "cut off":
            saved.path.write_bytes(saved.path.read_bytes()[:20_000])
        case "a file more":
            with tarfile.open(saved.path, "a") as archive:
                archive.addfile(tarfile.TarInfo("../outside"))
        case "no tar":
            saved.path.write_bytes(b"what is this")
        case "not there":
            saved.path.unlink()
    words = "damaged: it is cut off" if how == "cut off" else r"damaged|there is no backup"
    with pytest.raises(ArtifactError, match=words):
        restore(saved.path, after.store.root, after.published)
    assert [path.name for path in after.store.root.iterdir()] == ["_locks"]
    assert [path.name for path in after.store.root.parent.iterdir()] == ["artifacts"]


def test_a_backup_of_a_newer_version_is_refused(saved: Backup, after: Publishing) -> None:
    contents = json.loads(saved.contents.model_dump_json()) | {"format": 2}
    _rewrite(saved.path, CONTENTS, json.dumps(contents).encode())
    with pytest.raises(NewerFormat, match="Update ft_pipeline"):
        restore(saved.path, after.store.root, after.published)


def test_it_needs_room(before: Publishing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(DiskSpaceError, match="the backup needs"):
        back_up(before.store, tmp_path / "backups")


def test_the_commands_keep_the_newest_backups(
    before: Publishing, after: Publishing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    for day in (1, 2, 3):
        (folder / f"ft_pipeline-2025010{day}T000000Z.tar").touch()
    monkeypatch.setenv("FT_PIPELINE_ARTIFACTS", str(before.store.root))
    done = CliRunner().invoke(main, ["backup", str(folder), "--keep", "2"])
    assert done.exit_code == 0, done.output
    newest = max(folder.iterdir())
    assert f"{newest}: 3 artifacts" in done.output
    assert {path.name for path in folder.iterdir()} == {newest.name, "ft_pipeline-20250103T000000Z.tar"}
    monkeypatch.setenv("FT_PIPELINE_ARTIFACTS", str(after.store.root))
    done = CliRunner().invoke(main, ["restore", str(newest)])
    assert done.exit_code == 0, done.output
    assert after.champion == before.champion


def test_a_store_that_has_lost_its_champion_is_not_saved_and_no_backup_goes_for_it(
    before: Publishing, saved: Backup
) -> None:
    shutil.rmtree(before.store.root / "gguf_model" / before.fingerprint(2))
    with pytest.raises(
        MissingArtifact, match=f"champion of demo, and gguf_model {before.fingerprint(2)} is not in the"
    ):
        back_up(before.store, saved.path.parent, keep=1)
    assert list(saved.path.parent.iterdir()) == [saved.path]


@pytest.mark.parametrize("name", ["", "_backup", "_restore", "elsewhere/link"])
def test_a_backup_does_not_lie_in_what_it_saves(before: Publishing, tmp_path: Path, name: str) -> None:
    (before.store.root / "elsewhere").mkdir()
    (before.store.root / "elsewhere/link").symlink_to(before.store.root / "_logs")
    with pytest.raises(ArtifactError, match="a backup must lie elsewhere than what it saves"):
        back_up(before.store, before.store.root / name)
    link = tmp_path / "link"
    link.symlink_to(before.store.root)
    with pytest.raises(ArtifactError, match="a backup must lie elsewhere than what it saves"):
        back_up(before.store, link / "folder")
