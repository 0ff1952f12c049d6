"""A backup that somebody has made on purpose: it reaches nothing but the store, and is whole there or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from ft_pipeline.errors import ArtifactError, CorruptArtifact
from ft_pipeline.operations.backup import Backup
from ft_pipeline.operations.contents import CONTENTS, is_to_save
from ft_pipeline.operations.restore import restore
from ft_pipeline_tests.operations.conftest import list_files
from ft_pipeline_tests.publishing.small_models import Publishing

_KEY = f"gguf_model/{'a' * 24}"


def _describe(files: Mapping[str, bytes]) -> dict[str, object]:
    records = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        for name, content in files.items()
    }
    return {"format": 1, "created_at": "2026-01-01T00:00:00Z", "artifacts": [], "files": records}


def _make(path: Path, files: Mapping[str, bytes], links: Mapping[str, str] | None = None, mode: int = 0o644) -> Path:
    """A backup of these files; those of `links` are hard links in it."""
    head = {CONTENTS: json.dumps(_describe(files)).encode()}
    with tarfile.open(path, "w") as archive:
        for name, content in {**head, **files}.items():
            member = tarfile.TarInfo(name)
            member.mode = mode
            if target := (links or {}).get(name):
                member.type, member.linkname = tarfile.LNKTYPE, target
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def _require_refused(backup: Path, machine: Publishing, words: str) -> None:
    """It is an error, and the machine is as it was."""
    with pytest.raises(CorruptArtifact, match=words):
        restore(backup, machine.store.root, machine.published)
    assert [path.name for path in machine.store.root.iterdir()] == ["_locks"]
    assert [path.name for path in machine.store.root.parent.iterdir()] == ["artifacts"]


@pytest.mark.parametrize(
    "name",
    [
        f"{_KEY}/file", f"{_KEY}/parts/a b/..file", "_aliases/mine.json", "_aliases/mine.champion.json",
        "_runs/0-a.json", f"_traces/gguf_model-{'a' * 24}.json", "_retraining/mine/ledger.json",
    ],
)  # fmt: skip
def test_it_holds_files_of_artifacts_and_records(name: str) -> None:
    assert is_to_save(name)


@pytest.mark.parametrize(
    "name",
    [
        "/root/x", "//root/x", f"/{_KEY}/file", "../x/y", "./a/b", f"{_KEY}/../../../x", f"{_KEY}/./a", f"{_KEY}/a//b",
        f"{_KEY}/", _KEY, "gguf_model", "gguf_model/file", "gguf_model/backup/file", "", "evil", "_locks/restore",
        "_downloads/abc/pinned.json", "_restore/moving.json", "_aliases", "_aliases/", "_aliases/../x.json",
        "_aliases/.hidden.json", "_runs/live.lock", f"{_KEY}/a\\b", f"{_KEY}/a\0b", "C:/a/b.json", "backup.json",
    ],
)  # fmt: skip
def test_it_holds_nothing_else(name: str) -> None:
    assert not is_to_save(name)


# Names that would do no harm if they were taken.
@pytest.mark.parametrize("name", ["/nonexistent-folder/x", "../evil/x", "evil", "gguf_model/file", "_locks/restore"])
def test_one_that_holds_something_else_is_refused(after: Publishing, tmp_path: Path, name: str) -> None:
    backup = _make(tmp_path / "backup.tar", {name: b"x"})
    _require_refused(backup, after, rf"files: .*<asset>/<fingerprint>/<name>.*got '{name}'\. Take another one")


def test_its_files_are_compared_though_they_are_links_to_each_other(after: Publishing, tmp_path: Path) -> None:
    one, other = f"{_KEY}/a", f"{_KEY}/b"
    backup = _make(tmp_path / "backup.tar", {one: b"x", other: b"x"}, {one: other, other: one})
    _require_refused(backup, after, f"{one} is damaged")


def test_a_second_table_does_not_belong_there(after: Publishing, tmp_path: Path) -> None:
    backup = _make(tmp_path / "backup.tar", {f"{_KEY}/file": b"x"})
    with tarfile.open(backup, "a") as archive:
        second = tarfile.TarInfo(CONTENTS)
        second.type = tarfile.FIFOTYPE
        archive.addfile(second)
    _require_refused(backup, after, f"{CONTENTS} does not belong there")


def test_a_sparse_file_which_could_fill_the_disk_is_refused(after: Publishing, tmp_path: Path) -> None:
    big = tmp_path / f"{_KEY}/big"
    big.parent.mkdir(parents=True)
    big.write_bytes(bytes(1 << 20))
    (tmp_path / CONTENTS).write_text(json.dumps(_describe({f"{_KEY}/big": big.read_bytes()})))
    with big.open("wb") as file:
        file.truncate(1 << 20)
    backup = tmp_path / "backup.tar"
    subprocess.run(["/bin/tar", "--sparse", "-cf", backup, CONTENTS, f"{_KEY}/big"], cwd=tmp_path, check=True)
    assert backup.stat().st_size < 1 << 17
    _require_refused(backup, after, f"{_KEY}/big does not belong there")


def test_names_of_one_file_are_so_again_and_only_the_owner_reads_what_was_the_owners(
    after: Publishing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(tarfile, "data_filter", raising=False)  # as in Python 3.11.2
    one, other = f"{_KEY}/a", f"{_KEY}/b"
    backup = _make(tmp_path / "backup.tar", {one: b"x", other: b"x"}, {other: one}, mode=0o4660)
    restore(backup, after.store.root, after.published)
    there = after.store.root / one
    assert there.samefile(after.store.root / other)
    assert stat.S_IMODE(there.stat().st_mode) == 0o640


def test_aliases_are_read_before_anything_is_moved(after: Publishing, tmp_path: Path) -> None:
    backup = _make(tmp_path / "backup.tar", {f"{_KEY}/file": b"x", "_aliases/mine.json": b"what is this"})
    _require_refused(backup, after, r"cannot be restored: the alias _aliases/mine\.json does not read")


@pytest.mark.parametrize("link", ["gguf_model", "_runs", "_aliases"])
def test_a_link_in_the_store_does_not_lead_a_restore_out_of_it(
    saved: Backup, after: Publishing, tmp_path: Path, link: str
) -> None:
    elsewhere = tmp_path / "precious"
    elsewhere.mkdir()
    after.store.root.mkdir(parents=True)
    (after.store.root / link).symlink_to(elsewhere)
    with pytest.raises(ArtifactError, match=r"must stay within .*precious"):
        restore(saved.path, after.store.root, after.published)
    assert list(elsewhere.iterdir()) == []
    assert list_files(after.store) == {}


def test_what_a_restore_that_was_cut_off_has_left_leads_nowhere_else(
    saved: Backup, after: Publishing, tmp_path: Path
) -> None:
    (tmp_path / "precious").mkdir()
    moving = after.store.root / "_restore/moving.json"
    moving.parent.mkdir(parents=True)
    moving.write_text(json.dumps(_describe({"../../precious/x": b""})))
    with pytest.raises(CorruptArtifact, match=r"moving\.json does not read.*Move the whole store away"):
        restore(saved.path, after.store.root, after.published)
    assert (tmp_path / "precious").exists()


def test_a_link_in_the_place_of_its_draft_is_not_followed(
    before: Publishing, saved: Backup, after: Publishing, tmp_path: Path
) -> None:
    after.store.root.mkdir(parents=True)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/moving.json").write_text("of another store")
    (after.store.root / "_restore").symlink_to(tmp_path / "precious")
    restore(saved.path, after.store.root, after.published)
    assert list_files(after.store) == list_files(before.store)
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["moving.json"]
