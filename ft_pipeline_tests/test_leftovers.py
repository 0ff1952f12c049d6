from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.datasets.sources.copies import draft, find_copy, keep_copy, open_folder
from ft_pipeline.file_lock import lock_file
from ft_pipeline.fingerprint import hash_file
from ft_pipeline.leftovers import find_leftovers, measure_files, remove_leftovers
from ft_pipeline.retention import collect_garbage
from ft_pipeline_tests.test_retention import Machine

URL = "https://example.org/rows.jsonl"


def _age(path: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def _keep(store: Path, key: str, days: float) -> Path:
    """A copy of the state `key` of a remote file, last used some days ago."""
    with open_folder(store / "_downloads", URL) as folder, draft(folder) as written:
        written.write_text(f"as it was at {key}")
        path = keep_copy(written, key, ".jsonl", {}).path
    _age(path, 100)
    _age(path.with_suffix(".json"), days)
    return path


def test_copies_that_no_run_has_read_for_a_week_go(tmp_path: Path) -> None:
    old, recent = _keep(tmp_path, "monday", 8), _keep(tmp_path, "sunday", 2)
    found = find_leftovers(tmp_path)
    assert set(found) == {old, old.with_suffix(".json")}
    remove_leftovers(found)
    assert not old.exists()
    assert recent.exists()
    assert find_leftovers(tmp_path) == []


def test_a_copy_that_is_used_again_stays(tmp_path: Path) -> None:
    old = _keep(tmp_path, "monday", 8)
    assert find_copy(old.parent, "monday", ".jsonl", hash_file)
    assert find_leftovers(tmp_path) == []


def test_a_copy_is_left_alone_while_its_address_is_fetched(tmp_path: Path) -> None:
    old = _keep(tmp_path, "monday", 8)
    with open_folder(tmp_path / "_downloads", URL):
        remove_leftovers(find_leftovers(tmp_path))
    assert old.exists()


def test_a_copy_that_a_run_has_taken_since_it_was_found_stays(tmp_path: Path) -> None:
    old = _keep(tmp_path, "monday", 8)
    found = find_leftovers(tmp_path)
    assert find_copy(old.parent, "monday", ".jsonl", hash_file)
    remove_leftovers(found)
    assert old.exists()


def test_what_a_killed_fetch_has_left_goes(tmp_path: Path) -> None:
    left = _keep(tmp_path, "monday", 1).with_name(".0123.part")
    left.touch()
    assert find_leftovers(tmp_path) == [], "it may be under way"
    _age(left, 8)
    remove_leftovers(find_leftovers(tmp_path))
    assert not left.exists()


@pytest.mark.parametrize("name", ["backup", "restore"])
def test_what_a_killed_backup_or_restore_has_gathered_goes_unless_another_is_at_work(tmp_path: Path, name: str) -> None:
    staged = tmp_path / f"_{name}/gguf_model/0123"
    staged.mkdir(parents=True)
    (staged / "file").write_text("12345")
    with lock_file(tmp_path / "_locks" / name):
        assert collect_garbage(ArtifactStore(tmp_path)).leftovers == ()
    collected = collect_garbage(ArtifactStore(tmp_path))
    assert (collected.leftovers, collected.freed_bytes) == ((tmp_path / f"_{name}",), 5)
    assert not (tmp_path / f"_{name}").exists()


def test_logs_of_builds_that_failed_long_ago_go(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    gguf = machine.run(1)
    old, new = (f"gguf_model-{digit * 24}" for digit in "ab")
    logs = {name: tmp_path / f"_logs/{name}.log" for name in (f"gguf_model-{gguf}", old, new, "notes", "ours-of-may")}
    for name, path in logs.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text("words")
        _age(path, 1 if name == new else 40)
    collected = collect_garbage(ArtifactStore(tmp_path))
    assert collected.leftovers == (logs.pop(old),)
    assert set((tmp_path / "_logs").iterdir()) == set(logs.values())


@pytest.mark.parametrize(
    ("link", "names"),
    [
        ("_downloads", [f"{'a' * 64}/n.json", f"{'a' * 64}/n.data"]),
        ("_downloads/link", ["n.json", "n.data"]),
        (f"_downloads/{'a' * 64}", ["n.json", "n.data", ".00ff.part"]),
        ("_logs", [f"gguf_model-{'a' * 24}.log"]),
        ("_traces", [f"gguf_model-{'a' * 24}.json"]),
        ("_checkpoints", [f"gguf_model-{'a' * 24}/scratch-1/rows"]),
        ("_checkpoints/link", ["scratch-1/rows"]),
        (f"_checkpoints/gguf_model-{'a' * 24}", ["scratch-1/rows", "step-00000001/header.json"]),
        (f"_checkpoints/gguf_model-{'b' * 24}/scratch-1", ["rows"]),
        ("gguf_model", [f".{'a' * 24}.draft-00ff/file"]),
        (f"gguf_model/.{'a' * 24}.draft-00ff", ["file"]),
        ("_backup", ["gguf_model/file"]),
        ("_restore", ["files/file", "moving.json"]),
    ],
)
def test_nothing_is_removed_by_way_of_a_link(tmp_path: Path, link: str, names: list[str]) -> None:
    precious, path = tmp_path / "precious", tmp_path / "store" / link
    for name in names:
        (precious / name).parent.mkdir(parents=True, exist_ok=True)
        (precious / name).touch()
    for found in [*precious.rglob("*"), precious]:
        _age(found, 100)
    path.parent.mkdir(parents=True)
    path.symlink_to(precious)
    os.utime(path, (0, 0), follow_symlinks=False)
    collect_garbage(ArtifactStore(tmp_path / "store"))
    assert [name for name in names if not (precious / name).exists()] == []
    again = collect_garbage(ArtifactStore(tmp_path / "store"), dry_run=True)
    assert (again.leftovers, again.swept) == ((), ()), "nothing is found each time anew"


def test_what_is_no_folder_of_the_pipeline_among_checkpoints_and_copies_stays(tmp_path: Path) -> None:
    names = ("_checkpoints/ours-of-may/scratch-1/rows", "_checkpoints/old-bad/file", "_downloads/notes/n.json")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    for path in tmp_path.rglob("*"):
        _age(path, 100)
    collect_garbage(ArtifactStore(tmp_path))
    assert [name for name in names if not (tmp_path / name).exists()] == []


def test_a_file_with_several_names_counts_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/part").write_text("12345")
    os.link(tmp_path / "a/part", tmp_path / "b/part")
    seen: set[int] = set()
    assert [measure_files(tmp_path / name, seen) for name in ("a", "b")] == [5, 0]
