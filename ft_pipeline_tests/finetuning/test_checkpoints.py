"""Checkpoints: exact, whole or passed over, and never another training's."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: TID253

from ft_pipeline.errors import DiskSpaceError, NewerFormat
from ft_pipeline.finetuning.checkpoints import CheckpointStore, Snapshot
from ft_pipeline_tests.finetuning.snapshots import FINGERPRINT, assert_same, assert_whole, make_snapshot


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", FINGERPRINT, tell=said.append)


def names_in(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_the_newest_checkpoint_is_read_as_it_was_written(store: CheckpointStore) -> None:
    assert store.load_latest() is None
    for step in (3, 12):
        store.save(make_snapshot(step))
    assert assert_whole(store.load_latest()) == 12


def test_views_of_one_storage_are_taken_apart(store: CheckpointStore) -> None:
    whole = torch.arange(12.0)
    optimizer = {"state": {0: {"a": whole, "b": whole[2:5], "c": whole.view(3, 4), "d": whole.view(3, 4).T}}}
    snapshot = Snapshot(1, {"w": whole}, optimizer, {}, {}, {})
    store.save(snapshot)
    assert_same(vars(store.load_latest()), vars(snapshot))


def test_the_last_two_are_kept(store: CheckpointStore) -> None:
    for step in (1, 2, 3, 4):
        assert store.save(make_snapshot(step)) == store.folder / f"step-{step:08}"
    assert names_in(store) == ["step-00000003", "step-00000004"]


def test_the_same_step_may_be_written_again(store: CheckpointStore) -> None:
    for step in (1, 2, 2):
        store.save(make_snapshot(step))
    assert names_in(store) == ["step-00000001", "step-00000002"]
    assert assert_whole(store.load_latest()) == 2


def test_nothing_in_a_checkpoint_is_a_pickle(store: CheckpointStore) -> None:
    folder = store.save(make_snapshot(1))
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}


def test_clear_leaves_what_others_keep_beside(store: CheckpointStore) -> None:
    store.save(make_snapshot(1))
    (store.folder / "best").mkdir()
    store.clear()
    assert names_in(store) == ["best"]


@pytest.mark.parametrize("name", ["checkpoint.json", "adapter.safetensors", "state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "remove"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    store: CheckpointStore, said: list[str], name: str, damage: str
) -> None:
    store.save(make_snapshot(1))
    file = store.save(make_snapshot(2)) / name
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[:-1])
    else:
        file.unlink()
    assert assert_whole(store.load_latest()) == 1
    assert len(said) == 1
    assert "a checkpoint is passed over" in said[0]
    assert "step-00000002" in said[0]


@pytest.mark.parametrize("name", ["checkpoint.json", "adapter.safetensors", "state.safetensors", "state.json"])
def test_no_flipped_bit_goes_unseen(store: CheckpointStore, name: str) -> None:
    file = store.save(make_snapshot(2)) / name
    content = file.read_bytes()
    for position in {*range(0, len(content), 5), len(content) - 1}:
        file.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert store.load_latest() is None
    file.write_bytes(content)
    assert assert_whole(store.load_latest()) == 2


def test_what_lies_after_a_new_checkpoint_goes(store: CheckpointStore) -> None:
    for step in (5, 6, 2):
        store.save(make_snapshot(step))
    assert names_in(store) == ["step-00000002"]


def test_a_damaged_checkpoint_is_not_one_of_the_two_that_are_kept(store: CheckpointStore) -> None:
    for step in (1, 2):
        store.save(make_snapshot(step))
    (store.folder / "step-00000002" / "state.json").write_text("{}")
    assert assert_whole(store.load_latest()) == 1
    store.save(make_snapshot(3))
    assert names_in(store) == ["step-00000001", "step-00000003"]


def test_another_trainings_checkpoint_is_never_taken(store: CheckpointStore, said: list[str]) -> None:
    store.save(make_snapshot(7))
    other = CheckpointStore(store.folder, "f2", tell=said.append)
    assert other.load_latest() is None
    assert "must be of the training f2, it is of f1" in said[0]
    other.save(make_snapshot(1))
    assert assert_whole(other.load_latest()) == 1
    assert names_in(store) == ["step-00000001"]


def test_an_older_format_version_is_never_taken(store: CheckpointStore, said: list[str]) -> None:
    header = store.save(make_snapshot(1)) / "checkpoint.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"version": 0}))
    assert store.load_latest() is None
    assert "must be of format version 1, it is of 0" in said[0]


def test_a_newer_format_version_stops_the_training_and_is_not_lost(store: CheckpointStore) -> None:
    header = store.save(make_snapshot(1)) / "checkpoint.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"version": 99}))
    with pytest.raises(NewerFormat, match="has format 99, and this version reads up to 1"):
        store.load_latest()
    assert names_in(store) == ["step-00000001"]


def test_a_checkpoint_under_another_steps_name_is_not_taken(store: CheckpointStore, said: list[str]) -> None:
    store.save(make_snapshot(1)).rename(store.folder / "step-00000900")
    assert store.load_latest() is None
    assert "must be of the step in its name, it is of 1" in said[0]


# No space


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk_as_safetensors_says_it(*_: Any, **__: Any) -> None:
    from safetensors import SafetensorError

    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("place", "fail"),
    [
        ("safetensors.torch.save_file", full_disk_as_safetensors_says_it),
        ("os.fsync", full_disk),
        ("os.mkdir", full_disk),
    ],
)
def test_a_full_disk_is_told_and_older_checkpoints_stay(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, place: str, fail: Callable[..., None]
) -> None:
    store.save(make_snapshot(1))
    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        with pytest.raises(DiskSpaceError, match=r"which is full: .*No space left on device.*Free some and run again"):
            store.save(make_snapshot(2))
    assert names_in(store) == ["step-00000001"]
    assert assert_whole(store.load_latest()) == 1


def test_too_little_space_is_told_before_anything_is_written(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(make_snapshot(1))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(DiskSpaceError, match=r"a checkpoint needs 0\.00 GiB of disk in .*, 0\.00 GiB are free"):
        store.save(make_snapshot(2))
    assert names_in(store) == ["step-00000001"]


def test_another_fault_of_the_disk_is_not_taken_for_a_full_one(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        store.save(make_snapshot(1))
    assert names_in(store) == []
