"""A kill at any moment leaves a whole checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.finetuning.checkpoints import CheckpointStore
from ft_pipeline_tests.finetuning.snapshots import FINGERPRINT, assert_whole, make_snapshot

_OPERATIONS = ("mkdir", "open", "fsync", "rename", "unlink", "rmdir")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Dead(BaseException):
    """The process is no more."""


@contextmanager
def dying_at(operation: int) -> Iterator[list[str]]:
    """From this operation on the disk, none is done any more: what would clean up is dead too."""
    done: list[str] = []

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if len(done) >= operation:
                raise Dead
            done.append(f"{name} {Path(str(args[0])).name}")
            return real(*args, **kwargs)

        return call

    from safetensors import torch as safetensors_torch

    with pytest.MonkeyPatch.context() as patch:
        for name in _OPERATIONS:
            patch.setattr(os, name, wrap(name, getattr(os, name)))
        patch.setattr(safetensors_torch, "save_file", wrap("save", safetensors_torch.save_file))
        yield done


def killed_at(operation: int, work: Callable[[], Any]) -> bool:
    with dying_at(operation):
        try:
            work()
        except Dead:
            return True
    return False


@pytest.mark.parametrize("next_step", [3, 2], ids=["the next step", "the same step again"])
def test_a_kill_at_any_operation_leaves_a_whole_checkpoint(tmp_path: Path, next_step: int) -> None:
    found, said, operation = set(), list[str](), 0
    while True:
        store = CheckpointStore(tmp_path / str(operation), FINGERPRINT)
        for step in (1, 2):
            store.save(make_snapshot(step))
        was_killed = killed_at(operation, lambda: store.save(make_snapshot(next_step)))  # noqa: B023
        assert all(len(list(folder.iterdir())) == 4 for folder in store.folder.glob("step-*"))
        found.add(assert_whole(CheckpointStore(store.folder, FINGERPRINT, tell=said.append).load_latest()))
        operation += 1
        if not was_killed:
            break
    assert operation > 15
    assert found == {2, next_step}
    assert not said


@pytest.mark.parametrize("next_step", [3, 2], ids=["the next step", "the same step again"])
def test_nothing_that_a_killed_writer_left_stands_in_the_way_of_the_next_one(tmp_path: Path, next_step: int) -> None:
    was_killed, operation = True, 0
    while was_killed:
        store = CheckpointStore(tmp_path / str(operation), FINGERPRINT)
        store.save(make_snapshot(2))
        was_killed = killed_at(operation, lambda: store.save(make_snapshot(next_step)))  # noqa: B023
        CheckpointStore(store.folder, FINGERPRINT).save(make_snapshot(4))
        assert names_in(store.folder) in (
            ["step-00000002", "step-00000004"],
            [f"step-{next_step:08}", "step-00000004"],
        )
        operation += 1


def test_all_is_flushed_before_a_checkpoint_gets_its_name(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, FINGERPRINT)
    with dying_at(10**9) as done:
        store.save(make_snapshot(1))
    renamed = done.index("rename .step-00000001.draft")
    opened = [entry.removeprefix("open ") for entry in done[:renamed] if entry.startswith("open ")]
    assert {"adapter.safetensors", "state.safetensors", "state.json", "checkpoint.json"} <= set(opened)
    assert sum(entry.startswith("fsync") for entry in done[:renamed]) == 5
    assert any(entry.startswith("fsync") for entry in done[renamed:])


_KILLED_OVER_AND_OVER = """
import os, random, signal, sys, time
from pathlib import Path
from ft_pipeline.finetuning.checkpoints import CheckpointStore
from ft_pipeline_tests.finetuning.snapshots import FINGERPRINT, assert_whole, make_snapshot

store, last = CheckpointStore(Path(sys.argv[1]), FINGERPRINT), 0
for _ in range(40):
    child = os.fork()
    if not child:
        step = last
        while True:
            step += 1
            store.save(make_snapshot(step))
    time.sleep(random.uniform(0.005, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if (snapshot := store.load_latest()) is None:
        assert last == 0
    else:
        assert assert_whole(snapshot) >= last
        last = snapshot.step
sys.stdout.write(str(last))
"""


@pytest.mark.slow
def test_kills_at_random_times_never_lose_a_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _KILLED_OVER_AND_OVER, str(tmp_path / "checkpoints")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 10
    assert "passed over" not in result.stderr
