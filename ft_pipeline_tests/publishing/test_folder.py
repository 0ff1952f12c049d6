from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import DiskSpaceError
from ft_pipeline.publishing.folder import find_faults
from ft_pipeline_tests.publishing.small_models import FILES, Publishing, make_recipe, report_of


def _refuse_links(*_: object, **__: object) -> None:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def test_all_that_a_runtime_needs_lies_behind_one_link(publishing: Publishing) -> None:
    done = publishing.publish(1)
    assert {path.name for path in publishing.link.iterdir()} == {*FILES, "manifest.json", "champion.json", "SHA256SUMS"}
    assert done.folder == publishing.link
    assert done.gguf == publishing.link / "demo-Q4_K_M.gguf"
    assert done.modelfile == publishing.link / "Modelfile"
    assert done.gguf.read_text() == "demo-Q4_K_M.gguf of model 1\n"


def test_the_sums_are_checked_by_sha256sum(publishing: Publishing) -> None:
    publishing.publish(1)
    program = shutil.which("sha256sum")
    assert program
    done = subprocess.run(
        [program, "--check", "--strict", "SHA256SUMS"], cwd=publishing.link, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b": OK") == len(FILES) + 2


def test_champion_json_says_what_it_is(publishing: Publishing) -> None:
    publishing.publish(1)
    publishing.publish(2)
    facts = json.loads((publishing.link / "champion.json").read_text())
    since = facts.pop("since")
    assert publishing.state.champion
    assert since == publishing.state.champion.model_dump(mode="json")["since"]
    assert facts == {
        "format": 1,
        "recipe": "demo",
        "gguf_model": publishing.fingerprint(2),
        "evaluation_report": report_of(2),
        "against": publishing.fingerprint(1),
        "against_best": None,
        "score": 0.2,
        "quantization": "Q4_K_M",
        "gguf": "demo-Q4_K_M.gguf",
    }


def test_files_take_no_more_disk_than_in_the_store(publishing: Publishing) -> None:
    publishing.publish(1)
    artifact = publishing.store.load("gguf_model", publishing.fingerprint(1))
    assert all((publishing.link / name).samefile(artifact.path / name) for name in FILES)


def test_on_another_disk_they_are_copies(publishing: Publishing, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", _refuse_links)
        publishing.publish(1)
    artifact = publishing.store.load("gguf_model", publishing.fingerprint(1))
    assert not any((publishing.link / name).samefile(artifact.path / name) for name in FILES)
    assert find_faults(publishing.link) == []


def test_a_disk_too_small_for_copies_publishes_nothing(publishing: Publishing, monkeypatch: pytest.MonkeyPatch) -> None:
    publishing.publish(1)
    monkeypatch.setattr(os, "link", _refuse_links)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(DiskSpaceError, match=r"a copy of the champion, needs"):
        publishing.publish(2)
    assert publishing.champion == publishing.fingerprint(1)
    assert publishing.versions() == {f"demo-{publishing.fingerprint(1)}"}


def test_the_folder_can_be_moved(publishing: Publishing, tmp_path: Path) -> None:
    publishing.publish(1)
    moved = publishing.published.rename(tmp_path / "elsewhere")
    assert find_faults(moved / "demo") == []


def test_a_reader_never_finds_the_link_missing(publishing: Publishing, monkeypatch: pytest.MonkeyPatch) -> None:
    publishing.publish(1)
    seen = []
    replace = Path.replace

    def look(self: Path, target: Path) -> Path:
        seen.append(publishing.link.readlink().name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", look)
    publishing.publish(2)
    assert seen[-1] == f"demo-{publishing.fingerprint(1)}"
    assert publishing.link.readlink() == Path(".versions") / f"demo-{publishing.fingerprint(2)}"


def test_old_versions_go_when_nothing_needs_them(tmp_path: Path) -> None:
    publishing = Publishing(tmp_path, make_recipe(keep_champions=1))
    for number in (1, 2, 3, 4):
        publishing.publish(number, is_best=number == 1)
    assert publishing.versions() == {f"demo-{publishing.fingerprint(number)}" for number in (1, 3, 4)}


def test_a_file_that_was_taken_away_comes_back_with_the_next_run(publishing: Publishing) -> None:
    publishing.publish(1)
    before = publishing.sums()
    (publishing.link / "Modelfile").unlink()
    publishing.publish(1)
    assert publishing.sums() == before
    shutil.rmtree(publishing.published)
    publishing.reject(2)
    assert publishing.sums() == before


def test_a_champion_whose_files_are_gone_is_told_and_gives_way(
    publishing: Publishing, caplog: pytest.LogCaptureFixture
) -> None:
    publishing.publish(1)
    gone = publishing.fingerprint(1)
    publishing.lose(1)
    shutil.rmtree(publishing.published)
    with caplog.at_level(logging.WARNING):
        rejected = publishing.reject(2)
    assert f"the files of the champion {gone} are gone" in caplog.text
    assert (rejected.gguf, rejected.folder) == (None, None)
    assert publishing.publish(3).published
    assert publishing.sums().keys() == {*FILES, "manifest.json", "champion.json", "SHA256SUMS"}


def test_a_champion_that_is_damaged_is_told_and_not_delivered(
    publishing: Publishing, caplog: pytest.LogCaptureFixture
) -> None:
    publishing.publish(1)
    with (publishing.link / "demo-Q8_0.gguf").open("r+") as file:
        file.write("X")
    publishing.recipe = make_recipe(hub_repo="me/tickets")
    with caplog.at_level(logging.WARNING):
        rejected = publishing.reject(2)
    assert "demo-Q8_0.gguf: SHA-256" in caplog.text
    assert "demo-Q8_0.gguf has changed" in caplog.text
    assert (rejected.gguf, rejected.deliveries) == (None, ())


def test_a_champion_that_the_store_has_lost_comes_back_from_the_published_folder(publishing: Publishing) -> None:
    publishing.publish(1)
    lost = publishing.store.load("gguf_model", publishing.fingerprint(1))
    publishing.lose(1)
    publishing.reject(2)
    found = publishing.store.load("gguf_model", lost.manifest.fingerprint)
    publishing.store.verify(found)
    assert (found.manifest.files, found.manifest.summary) == (lost.manifest.files, lost.manifest.summary)


def test_an_old_version_that_a_person_has_moved_away_goes_and_what_it_was_moved_to_stays(
    tmp_path: Path, publishing: Publishing
) -> None:
    publishing.recipe = make_recipe(keep_champions=0)
    publishing.publish(1)
    version = publishing.link.resolve()
    moved = version.rename(tmp_path / "moved")
    version.symlink_to(moved)
    (version.parent / f"demo-{publishing.fingerprint(2)}").symlink_to("nowhere")
    publishing.publish(2)
    publishing.publish(3)
    assert [path.name for path in version.parent.iterdir() if path.is_symlink()] == []
    assert publishing.versions() == {f"demo-{publishing.fingerprint(3)}"}
    assert (moved / "Modelfile").is_file()


def test_an_old_version_that_cannot_be_removed_is_a_warning_and_receivers_are_told(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publishing.recipe = make_recipe(keep_champions=0, ollama="always")
    publishing.publish(1)

    remove = shutil.rmtree

    def refuse(path: Path, **options: Any) -> None:
        if path.parent.name == ".versions" and not options.get("ignore_errors"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    monkeypatch.setenv("PATH", "")
    with caplog.at_level(logging.WARNING):
        done = publishing.publish(2)
    assert done.published
    assert "what is no longer needed could not be removed" in caplog.text
    assert done.deliveries == ("Ollama ft_pipeline-demo: failed, there is no program ollama on PATH",)
    assert publishing.link.readlink().name == f"demo-{publishing.fingerprint(2)}"


def test_a_link_in_the_place_of_a_version_is_replaced_and_nothing_is_written_behind_it(
    publishing: Publishing, tmp_path: Path
) -> None:
    version = publishing.published / f".versions/demo-{publishing.fingerprint(1)}"
    version.parent.mkdir(parents=True)
    (tmp_path / "precious").mkdir()
    version.symlink_to(tmp_path / "precious")
    assert publishing.publish(1).published
    assert version.is_dir()
    assert not version.is_symlink()
    assert list((tmp_path / "precious").iterdir()) == []


def test_a_copy_that_was_damaged_in_place_is_made_right(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", _refuse_links)
    publishing.publish(1)
    before = publishing.sums()
    damaged = publishing.link / "demo-Q8_0.gguf"
    damaged.write_bytes(b"X" * damaged.stat().st_size)
    publishing.reject(2)
    assert publishing.sums() == before


def test_a_champion_that_is_mended_is_never_missing(publishing: Publishing, monkeypatch: pytest.MonkeyPatch) -> None:
    publishing.publish(1)
    before, seen = publishing.sums(), []
    (publishing.link / "README.md").unlink()
    replace, rename = Path.replace, Path.rename

    def look(self: Path, target: Path) -> Path:
        moved = replace(self, target)
        seen.append(publishing.sums().keys() >= before.keys() - {"README.md"})
        return moved

    def look_at_renamed(self: Path, target: Path) -> Path:
        moved = rename(self, target)
        seen.append(publishing.link.exists())
        return moved

    monkeypatch.setattr(Path, "replace", look)
    monkeypatch.setattr(Path, "rename", look_at_renamed)
    publishing.publish(1)
    assert seen
    assert all(seen)
    assert publishing.sums() == before
    assert publishing.versions() == {f"demo-{publishing.fingerprint(1)}"}


def test_a_version_whose_file_is_a_symbolic_link_comes_back_to_the_store_as_a_file(
    publishing: Publishing, tmp_path: Path
) -> None:
    publishing.publish(1)
    version = publishing.link.resolve() / "demo-Q8_0.gguf"
    version.symlink_to(version.rename(tmp_path / "elsewhere.gguf"))
    publishing.lose(1)
    publishing.reject(2)
    artifact = publishing.store.load("gguf_model", publishing.fingerprint(1))
    assert not (artifact.path / "demo-Q8_0.gguf").is_symlink()
