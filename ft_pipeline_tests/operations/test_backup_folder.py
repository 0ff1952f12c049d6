"""Which backups stay in a folder, and what a store remembers of the last one."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from ft_pipeline.errors import DiskSpaceError, NewerFormat
from ft_pipeline.operations import backup as module
from ft_pipeline.operations.backup import back_up
from ft_pipeline.operations.backup_folder import LastBackup, note_backup
from ft_pipeline.operations.contents import CONTENTS
from ft_pipeline.operations.health import examine_store
from ft_pipeline_tests.publishing.small_models import Publishing

_MANY = 10 << 20


class _StoppedClock:
    def __init__(self, moment: datetime) -> None:
        self._moment = moment

    def now(self, _: tzinfo) -> datetime:
        return self._moment


def _make_earlier(folder: Path, *days: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    found = [folder / f"ft_pipeline-{day}T000000Z.tar" for day in days]
    for path in found:
        path.write_bytes(bytes(_MANY))
    return found


def test_only_backups_make_room_for_one(before: Publishing, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    (older,) = _make_earlier(folder, "20250101")
    names = ["ft_pipeline-mynotes-ABCZ.tar", "ft_pipeline-20250101T000000Z-keepZ.tar", ".ft_pipeline-mine.tar.draft"]
    for name in names:
        (folder / name).touch()
    names += ["ft_pipeline-dirZ.tar", "ft_pipeline-20250102T000000Z.tar", ".ft_pipeline-20250102T000000Z.tar.draft"]
    for name in names[3:]:
        (folder / name).mkdir()
    saved = back_up(before.store, folder, keep=1)
    assert saved.removed == (older,)
    assert {path.name for path in folder.iterdir()} == {*names, saved.path.name}


def test_after_the_clock_was_ahead_the_new_backups_stay(
    before: Publishing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backups"
    _make_earlier(folder, "20300101", "20300102", "20300103")
    made = []
    for day in (1, 2, 3):
        monkeypatch.setattr(module, "datetime", _StoppedClock(datetime(2026, 1, day, tzinfo=UTC)))
        made.append(back_up(before.store, folder, keep=2).path)
        assert made[-1].exists()
    assert set(folder.iterdir()) == {made[-2], made[-1]}


def test_where_the_disk_holds_no_backup_more_the_oldest_goes_first(
    before: Publishing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backups"
    oldest, newer = _make_earlier(folder, "20250101", "20250102")
    _limit(monkeypatch, folder, 2 * _MANY)
    saved = back_up(before.store, folder, keep=2)
    assert saved.removed == (oldest,)
    assert set(folder.iterdir()) == {newer, saved.path}


def test_the_last_backup_stays_until_there_is_another(
    before: Publishing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backups"
    (only,) = _make_earlier(folder, "20250101")
    _limit(monkeypatch, folder, _MANY)
    with pytest.raises(DiskSpaceError, match="keep fewer backups"):
        back_up(before.store, folder, keep=1)
    assert list(folder.iterdir()) == [only]


def test_nothing_goes_for_a_backup_that_would_not_fit_even_so(
    before: Publishing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backups"
    earlier = _make_earlier(folder, "20250101", "20250102")
    monkeypatch.setattr(module, "_TAR_BYTES", _MANY)
    _limit(monkeypatch, folder, 2 * _MANY)
    with pytest.raises(DiskSpaceError):
        back_up(before.store, folder, keep=2)
    assert set(folder.iterdir()) == set(earlier)


def _limit(monkeypatch: pytest.MonkeyPatch, folder: Path, size_bytes: int) -> None:
    """As if the folder's disk had that size."""
    usage = shutil.disk_usage(folder)

    def measure(_: Path) -> object:
        return usage._replace(free=size_bytes - sum(path.stat().st_size for path in folder.iterdir()))

    monkeypatch.setattr(shutil, "disk_usage", measure)


@pytest.mark.parametrize(
    ("days", "is_one_of_many", "is_fault"), [(1, True, False), (9, True, True), (99, False, False)]
)
def test_the_doctor_misses_a_backup_where_a_timer_makes_them(
    before: Publishing, days: int, is_one_of_many: bool, is_fault: bool
) -> None:
    at = datetime.now(UTC) - timedelta(days=days)
    note_backup(before.store.root, LastBackup(at=at, path="/mnt/backup.tar", is_one_of_many=is_one_of_many))
    found = {finding.subject: finding for finding in examine_store(before.store.root, before.published)}["last backup"]
    assert f"{days} days ago: /mnt/backup.tar" in found.state
    assert bool(found.fix) == is_fault


def test_the_doctor_knows_the_backup_that_was_made(before: Publishing, tmp_path: Path) -> None:
    found = {finding.subject: finding for finding in examine_store(before.store.root, before.published)}
    assert found["last backup"].state == "none was made of this store"
    saved = back_up(before.store, tmp_path)
    found = {finding.subject: finding for finding in examine_store(before.store.root, before.published)}
    assert str(saved.path) in found["last backup"].state


def test_what_a_newer_version_has_saved_stays(before: Publishing, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    newer, older = _make_earlier(folder, "20250102", "20250101")
    table = json.dumps({"format": 9, "files": []}).encode()
    with tarfile.open(newer, "w") as archive:
        head = tarfile.TarInfo(CONTENTS)
        head.size = len(table)
        archive.addfile(head, io.BytesIO(table))
    assert back_up(before.store, folder, keep=1).removed == (older,)
    assert newer.exists()
    note = before.store.root / "_last_backup.json"
    note.write_text(json.dumps({"format": 9}))
    with pytest.raises(NewerFormat, match="written by a newer version"):
        back_up(before.store, folder, keep=1)
    assert json.loads(note.read_text()) == {"format": 9}
