from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from ft_pipeline.artifact import MANIFEST, ArtifactKey, Written
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.errors import ArtifactError, CorruptArtifact, DiskSpaceError, MissingArtifact
from ft_pipeline.file_lock import lock_file
from ft_pipeline.summary import Summary

CONTENT = {"a.txt": "first", "sub/b.txt": "second"}


def _key(asset: str = "thing", upstream: ArtifactKey | None = None, **ingredients: object) -> ArtifactKey:
    return ArtifactKey(asset, ingredients, {upstream.asset: upstream.fingerprint} if upstream else {})


def _write(draft: Path) -> Written:
    for name, text in CONTENT.items():
        (draft / name).parent.mkdir(exist_ok=True)
        (draft / name).write_text(text)
    return Written(Summary(figures={"rows": 2}))


def _refuse(_draft: Path) -> Written:
    raise AssertionError("the artifact is there and must not be built again")


def test_an_artifact_is_built_once_and_reused(tmp_path: Path) -> None:
    store, key = ArtifactStore(tmp_path), _key(x=1)
    built = store.build(key, _write)
    assert not built.reused
    assert (built.path / "sub/b.txt").read_text() == "second"
    assert store.build(key, _refuse).reused
    assert ArtifactStore(tmp_path).require(key).manifest.summary.figures == {"rows": 2}


def test_the_manifest_says_what_went_in_and_what_came_out(tmp_path: Path) -> None:
    upstream = _key("source", data="abc")
    store = ArtifactStore(tmp_path)
    manifest = json.loads((store.build(_key(upstream=upstream, x=1), _write).path / MANIFEST).read_text())
    assert manifest["upstream"] == {"source": upstream.fingerprint}
    assert manifest["ingredients"] == {"x": 1}
    assert manifest["files"]["a.txt"]["size_bytes"] == len("first")
    assert set(manifest["files"]) == set(CONTENT)


def test_another_ingredient_or_upstream_is_another_artifact() -> None:
    keys = [_key(x=1), _key(x=2), _key("other", x=1), _key(upstream=_key("source"), x=1)]
    assert len({key.fingerprint for key in keys}) == len(keys)


def test_a_failed_builder_leaves_nothing(tmp_path: Path) -> None:
    def fail(draft: Path) -> Written:
        (draft / "half").write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        ArtifactStore(tmp_path).build(_key(), fail)
    assert list((tmp_path / "thing").iterdir()) == []


def test_what_was_just_built_is_not_read_again_and_what_changed_since_another_store_is(tmp_path: Path) -> None:
    key, verified = _key(), set[tuple[Path, int]]()
    path = ArtifactStore(tmp_path, verified=verified).build(key, _write).path
    (path / "a.txt").write_text("fIrst")
    assert ArtifactStore(tmp_path, verified=verified).require(key).path == path
    with pytest.raises(CorruptArtifact, match=r"a\.txt: SHA-256"):
        ArtifactStore(tmp_path).require(key)


def test_a_sweep_removes_drafts_that_nobody_writes_any_more(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    kept = store.build(_key(), _write).path
    dead, alive = (tmp_path / f"thing/.{name * 24}.draft-1234" for name in "ab")
    dead.mkdir()
    alive.mkdir()
    with lock_file(tmp_path / "_locks" / f"thing-{'b' * 24}"):
        store.sweep()
    assert sorted((tmp_path / "thing").iterdir()) == sorted([kept, alive])


def test_a_sweep_removes_the_scratch_of_killed_stages_and_keeps_checkpoints_and_what_is_in_use(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    dead, alive = (tmp_path / f"_checkpoints/thing-{name * 24}" for name in "ab")
    for folder in (dead, alive):
        (folder / "scratch-1234/datasets").mkdir(parents=True)
        (folder / "step-00000001").mkdir()
    with lock_file(tmp_path / "_locks" / alive.name):
        store.sweep()
    assert sorted(path.name for path in dead.iterdir()) == ["step-00000001"]
    assert sorted(path.name for path in alive.iterdir()) == ["scratch-1234", "step-00000001"]


def test_a_missing_artifact_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact, match=r"dagster asset materialize --select '\*thing'"):
        ArtifactStore(tmp_path).require(_key())


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda path: (path / "a.txt").write_text("fIrst"), "a.txt: SHA-256"),
        (lambda path: (path / "a.txt").write_text("longer than it was"), "a.txt: 18 bytes, expected 5"),
        (lambda path: (path / "a.txt").unlink(), "a.txt: missing"),
        (lambda path: (path / "stray").touch(), "stray: not in the manifest"),
        (lambda path: (path / MANIFEST).write_text("{"), "does not read"),
        (lambda path: (path / MANIFEST).unlink(), "has no manifest.json"),
    ],
)
def test_a_damaged_artifact_is_named_and_built_anew(tmp_path: Path, damage: object, fault: str) -> None:
    key = _key()
    damage(ArtifactStore(tmp_path).build(key, _write).path)  # type: ignore[operator]
    with pytest.raises(CorruptArtifact, match=fault):
        ArtifactStore(tmp_path).require(key)
    said: list[str] = []
    assert not ArtifactStore(tmp_path, tell=said.append).build(key, _write).reused
    assert "built anew" in said[0]
    ArtifactStore(tmp_path).require(key)


@pytest.mark.parametrize("how", ["file", "link", "dangling link"])
def test_what_is_in_the_place_of_an_artifact_and_no_folder_is_damage(tmp_path: Path, how: str) -> None:
    store, key = ArtifactStore(tmp_path / "store"), _key()
    path = store.build(key, _write).path
    path.rename(tmp_path / "elsewhere")
    if how == "file":
        path.touch()
    else:
        path.symlink_to(tmp_path / ("elsewhere" if how == "link" else "nowhere"))
    with pytest.raises(CorruptArtifact, match="must be a folder, and is a file or a link"):
        store.require(key)
    assert not store.build(key, _write).reused
    assert list((tmp_path / "store/thing").iterdir()) == [path]
    assert (tmp_path / "elsewhere/a.txt").exists()


@pytest.mark.parametrize("is_link", [False, True])
def test_the_folder_of_an_asset_must_be_one_before_anything_is_built(tmp_path: Path, is_link: bool) -> None:
    if is_link:
        (tmp_path / "thing").symlink_to(tmp_path)
    else:
        (tmp_path / "thing").touch()
    with pytest.raises(ArtifactError, match=r"must be a folder of the store itself.*FT_PIPELINE_ARTIFACTS"):
        ArtifactStore(tmp_path).build(_key(), _refuse)


@pytest.mark.parametrize("name", ["../a.txt", "/etc/passwd", "sub/../../a.txt", "a\\b", ""])
def test_a_manifest_names_files_of_its_folder_only(tmp_path: Path, name: str) -> None:
    path = ArtifactStore(tmp_path).build(_key(), _write).path / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"][name] = manifest["files"]["a.txt"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(CorruptArtifact, match="must lie in its folder"):
        ArtifactStore(tmp_path).load("thing", _key().fingerprint)


def test_an_artifact_under_another_name_is_not_taken(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    store.build(_key(x=1), _write).path.rename(tmp_path / "thing" / _key(x=2).fingerprint)
    with pytest.raises(CorruptArtifact, match="expected format 1, thing"):
        store.require(_key(x=2))


def test_an_artifact_holds_no_links(tmp_path: Path) -> None:
    def link(draft: Path) -> Written:
        (draft / "passwd").symlink_to("/etc/passwd")
        return Written(Summary())

    with pytest.raises(ArtifactError, match="plain files only; passwd"):
        ArtifactStore(tmp_path / "store").build(_key(), link)


def test_a_name_cannot_leave_the_store(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="must match"):
        ArtifactStore(tmp_path).load("..", "passwd")


def test_disk_that_is_too_small_is_said_in_numbers(tmp_path: Path) -> None:
    with pytest.raises(DiskSpaceError, match=r"merging needs 1024\.00 GiB of disk .* GiB short"):
        ArtifactStore(tmp_path).require_space(2**40, "merging")


def _build_slowly(root: Path, started: Path) -> None:
    def write(draft: Path) -> Written:
        with started.open("a") as file:
            file.write("x")
        time.sleep(0.5)
        return _write(draft)

    ArtifactStore(root).build(_key(), write)


def test_two_processes_build_the_same_key_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    started = tmp_path / "started"
    processes = [context.Process(target=_build_slowly, args=(tmp_path / "store", started)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert started.read_text() == "x"


def _build_and_die_at(step: int, root: Path) -> int:
    """Build in a forked process that kills itself at the n-th operation on files; 0 if it got through."""
    child = os.fork()
    if child == 0:
        seen = 0

        def count(event: str, _args: object) -> None:
            nonlocal seen
            if event == "open" or event.startswith(("os.", "shutil.")):
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        ArtifactStore(root).build(_key(), _write)
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("damaged", [False, True], ids=["first", "over a damaged one"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_writer_killed_at_any_step_leaves_a_whole_artifact_or_none(tmp_path: Path, damaged: bool) -> None:
    survived = step = 0
    while not survived:
        step += 1
        root = tmp_path / str(step)
        if damaged:
            (ArtifactStore(root).build(_key(), _write).path / "a.txt").write_text("fIrst")
        survived = _build_and_die_at(step, root) == 0
        try:
            found = ArtifactStore(root).require(_key())
            assert found.manifest.files.keys() == CONTENT.keys()
        except CorruptArtifact:
            assert damaged
        except MissingArtifact:
            assert not damaged, f"killed at step {step}: the earlier artifact is lost"
        assert ArtifactStore(root).build(_key(), _write).path.is_dir()
        left = {path.name for path in (root / "thing").iterdir()}
        assert left == {_key().fingerprint}, f"killed at step {step}"
    assert step > 20
