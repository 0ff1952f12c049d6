from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ft_pipeline.errors import LeaseTimeout, ResourceError
from ft_pipeline.finetuning.lease import hold_device

_HOLDER = """
import os, sys, time
from pathlib import Path
from ft_pipeline.finetuning.lease import hold_device
with hold_device("cpu", lock_dir=Path(sys.argv[1]), timeout_seconds=20, holder=sys.argv[2], tell=lambda text: None):
    if sys.argv[2] == "with a worker" and os.fork() == 0:
        time.sleep(60)
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def _start_holder(lock_dir: Path, name: str, seconds: float = 60) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(lock_dir), name, str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def _kill_all(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_who_waits_is_told_who_holds_the_device_and_since_when(tmp_path: Path) -> None:
    holder = _start_holder(tmp_path, "recipe night")
    said: list[str] = []
    try:
        with (
            pytest.raises(
                LeaseTimeout, match=rf"held by recipe night \(process {holder.pid}\) since 20.*gpu.wait_seconds"
            ),
            hold_device("cpu", lock_dir=tmp_path, timeout_seconds=0.3, holder="me", tell=said.append),
        ):
            pass
    finally:
        _kill_all(holder)
    assert "waiting for cpu" in said[0]


@pytest.mark.parametrize("name", ["alone", "with a worker"])
def test_the_lease_dies_with_its_holder_even_if_a_forked_worker_lives_on(tmp_path: Path, name: str) -> None:
    holder = _start_holder(tmp_path, name)
    try:
        holder.kill()
        holder.wait()
        started = time.monotonic()
        with hold_device("cpu", lock_dir=tmp_path, timeout_seconds=5, holder="me", tell=lambda _: None):
            assert time.monotonic() - started < 2
    finally:
        _kill_all(holder)


def test_the_device_is_free_after_the_block_also_after_an_error(tmp_path: Path) -> None:
    def hold() -> None:
        with hold_device("cpu", lock_dir=tmp_path, timeout_seconds=1, holder="me", tell=lambda _: None):
            raise RuntimeError("training failed")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="training failed"):
            hold()


def test_another_device_is_another_lease(tmp_path: Path) -> None:
    holder = _start_holder(tmp_path, "on the cpu")
    try:
        with hold_device("GPU-1", lock_dir=tmp_path, timeout_seconds=0, holder="me", tell=lambda _: None):
            assert holder.poll() is None
    finally:
        _kill_all(holder)


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").touch()
    (tmp_path / "cpu.lock").symlink_to(tmp_path / "victim")
    with (
        pytest.raises(ResourceError, match="cannot be opened"),
        hold_device("cpu", lock_dir=tmp_path, timeout_seconds=0, holder="me", tell=lambda _: None),
    ):
        pass
