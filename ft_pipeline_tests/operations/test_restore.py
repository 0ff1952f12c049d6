"""A restore that does not go through, and one into a store that is not quite empty, or a disk of its own."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ft_pipeline.errors import ArtifactError, CorruptArtifact, ResourceError
from ft_pipeline.operations import restore as module
from ft_pipeline.operations.backup import Backup, back_up
from ft_pipeline.operations.contents import CONTENTS
from ft_pipeline.operations.restore import restore
from ft_pipeline.publishing.folder import find_faults
from ft_pipeline.retention import collect_garbage
from ft_pipeline.retraining.ledger import Judged, Ledger
from ft_pipeline_tests.operations.conftest import list_files
from ft_pipeline_tests.publishing.small_models import Publishing
from ft_pipeline_tests.small_disk import NAMESPACE, can_mount


def _die_in_move(saved: Backup, machine: Publishing, number: int) -> None:
    """A restore in a process that is killed when half of the artifacts, or of a kind of records, is in its place."""
    process = os.fork()
    if process == 0:
        try:
            _restore_half(saved, machine, number)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9


def _restore_half(saved: Backup, machine: Publishing, number: int) -> None:
    move, moved = module._move, list[list[str]]()

    def move_half(units: list[str], files: Path, store_root: Path) -> None:
        if len(moved) == number:
            move(units[: (len(units) + 1) // 2], files, store_root)
            os._exit(9)
        moved.append(units)
        move(units, files, store_root)

    module._move = move_half
    restore(saved.path, machine.store.root, machine.published)


@pytest.mark.parametrize("number", [0, 4])
def test_one_that_was_killed_is_begun_anew_by_the_next(
    before: Publishing, saved: Backup, after: Publishing, number: int
) -> None:
    _die_in_move(saved, after, number)
    there = list_files(after.store)
    assert there
    assert collect_garbage(after.store, dry_run=True).leftovers == ()
    restore(saved.path, after.store.root, after.published)
    assert list_files(after.store) == list_files(before.store)
    assert after.sums() == before.sums()
    assert not (after.store.root / "_restore").exists()


def test_what_was_made_since_one_was_killed_is_not_removed(saved: Backup, after: Publishing) -> None:
    _die_in_move(saved, after, 0)
    after.reject(9)
    files = list_files(after.store)
    with pytest.raises(ArtifactError, match="into an empty store"):
        restore(saved.path, after.store.root, after.published)
    assert list_files(after.store) == files


def test_one_that_fails_in_the_middle_leaves_nothing(
    saved: Backup, after: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = module._move

    def fail(units: list[str], files: Path, store_root: Path) -> None:
        move(units, files, store_root)
        raise OSError(5, "Input/output error", str(files))

    monkeypatch.setattr(module, "_move", fail)
    with pytest.raises(ResourceError, match="Input/output error"):
        restore(saved.path, after.store.root, after.published)
    assert list_files(after.store) == {}
    assert not (after.store.root / "_restore").exists()


def test_what_a_tick_of_the_sensor_has_noted_in_an_empty_store_is_no_hindrance(
    before: Publishing, after: Publishing, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    entry = Judged(data="d", outcome="kept", run="r", validated="v", contract="c", began_at=now, at=now)
    Ledger(before.store.root, "demo").add(entry)
    saved = back_up(before.store, tmp_path / "backups")
    for name in ("demo", "other"):
        Ledger(after.store.root, name).add(entry.model_copy(update={"data": "later"}))
    restore(saved.path, after.store.root, after.published)
    assert list_files(after.store) == list_files(before.store)
    assert Ledger(after.store.root, "demo").read().judged == (entry,)


@pytest.mark.skipif(not can_mount(), reason="this machine lets nobody mount a disk in a namespace of his own")
def test_the_store_may_be_a_disk_of_its_own(saved: Backup, tmp_path: Path) -> None:
    store = tmp_path / "disk"
    store.mkdir()
    python = f"FT_PIPELINE_ARTIFACTS={store} {sys.executable} -m ft_pipeline"
    inside = f"mount -t tmpfs -o size=8m none {store} && {python} restore {saved.path} && {python} verify"
    done = subprocess.run([*NAMESPACE, "sh", "-c", inside], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 artifacts are whole, 0 are damaged" in done.stdout


def _drop_champion(machine: Publishing, saved: Backup) -> Path:
    """The backup without the champion's files, as a version made it that did not look for them."""
    gone = f"gguf_model/{machine.fingerprint(2)}/"
    made = saved.path.parent / "without.tar"
    with tarfile.open(saved.path) as archive, tarfile.open(made, "w") as without:
        for member in archive:
            content = archive.extractfile(member)
            text = content.read() if content else b""
            if member.name == CONTENTS:
                table = json.loads(text)
                table["files"] = {name: record for name, record in table["files"].items() if not name.startswith(gone)}
                text = json.dumps(table).encode()
                member.size = len(text)
            if not member.name.startswith(gone):
                without.addfile(member, io.BytesIO(text))
    return made


def test_one_without_the_champion_is_refused_unless_the_published_folder_has_it(
    before: Publishing, saved: Backup, after: Publishing
) -> None:
    backup = _drop_champion(before, saved)
    with pytest.raises(
        CorruptArtifact, match=f"the champion of demo, {before.fingerprint(2)}, is neither in it nor whole"
    ):
        restore(backup, after.store.root, after.published)
    assert list_files(after.store) == {}
    shutil.rmtree(before.store.root)
    restore(backup, before.store.root, before.published)
    assert before.champion == before.fingerprint(2)
    assert find_faults(before.link) == []
