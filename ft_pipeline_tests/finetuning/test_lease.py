from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import LeaseTimeout, ResourceError
from ft_pipeline.file_lock import try_lock
from ft_pipeline.finetuning import lease, waiting_line
from ft_pipeline.finetuning.lease import default_lock_dir, hold_device
from ft_pipeline.finetuning.waiting_line import WaitingLine

_FIRST = "00000000000000000000-1"  # a ticket that is before all others


@contextmanager
def _hold(
    lock_dir: Path, seconds: float = 0, tell: Callable[[str], None] = lambda _: None, device: str = "cpu"
) -> Iterator[None]:
    with hold_device(device, lock_dir=lock_dir, timeout_seconds=seconds, holder="recipe night", tell=tell):
        yield


def test_who_waits_is_told_who_holds_the_device_since_when_and_its_place(tmp_path: Path) -> None:
    said: list[str] = []
    with (
        _hold(tmp_path),
        pytest.raises(
            LeaseTimeout,
            match=rf"cpu must be free within 0 s .* held by recipe night \(process {os.getpid()}\) since 20.*"
            r"; our place in the line: 1\. .*gpu.wait_seconds",
        ),
        _hold(tmp_path, 0.3, said.append),
    ):
        pass
    assert len(said) == 1
    assert said[0].startswith("waiting for cpu, 0 s so far: held by recipe night")


def test_the_place_counts_those_alive_who_came_before(tmp_path: Path) -> None:
    lines = [WaitingLine(tmp_path / "cpu.queue") for _ in range(3)]
    assert [line.count_ahead() for line in lines] == [0, 1, 2]
    assert [line.is_first() for line in lines] == [True, False, False]
    lines[0].leave()
    assert [line.count_ahead() for line in lines[1:]] == [0, 1]
    for line in lines[1:]:
        line.leave()
    assert list((tmp_path / "cpu.queue").iterdir()) == []


def test_the_device_is_free_after_the_block_also_after_an_error(tmp_path: Path) -> None:
    def hold() -> None:
        with _hold(tmp_path):
            raise RuntimeError("training failed")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="training failed"):
            hold()
    assert (tmp_path / "cpu.lock").read_text() == ""


def test_another_device_is_another_lease(tmp_path: Path) -> None:
    with _hold(tmp_path), _hold(tmp_path, device="GPU-1"):
        assert sorted(path.name for path in tmp_path.glob("*.lock")) == ["GPU-1.lock", "cpu.lock"]


@pytest.mark.parametrize(
    ("shared", "own", "found"),
    [
        (0o1777, None, "run/lock/ft_pipeline"),  # Debian
        (0o755, 0o1777, "run/lock/ft_pipeline"),  # Fedora with the units, whose folder it is
        (0o1777, 0o755, "run/lock/ft_pipeline"),  # somebody's own: an error there is better than two places
        (0o755, None, "tmp/ft_pipeline"),
        (0o755, 0o755, "tmp/ft_pipeline"),
        (None, None, "tmp/ft_pipeline"),
    ],
)
def test_the_folder_of_locks_is_that_of_the_units_wherever_all_may_write_to_it(
    tmp_path: Path, shared: int | None, own: int | None, found: str
) -> None:
    for name, mode in (("run/lock", shared), ("run/lock/ft_pipeline", own)):
        if mode is not None:
            (tmp_path / name).mkdir(parents=True)
            (tmp_path / name).chmod(mode)
    assert default_lock_dir(tmp_path) == tmp_path / found


def test_other_users_can_wait_and_hold_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with _hold(tmp_path / "locks"):
            line = WaitingLine(tmp_path / "locks/cpu.queue")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "locks").rglob("*")}
    assert modes == {"cpu.lock": 0o666, "cpu.queue": 0o1777, line.name: 0o666}
    assert stat.S_IMODE((tmp_path / "locks").stat().st_mode) == 0o1777
    line.leave()


def _link(path: Path) -> None:
    (path.parent / "victim").touch()
    path.symlink_to(path.parent / "victim")


@pytest.mark.parametrize(("place", "message"), [(_link, "symbolic links"), (os.mkfifo, "it is no file")])
def test_what_is_no_lock_in_the_place_of_one_is_an_error(
    tmp_path: Path, place: Callable[[Path], None], message: str
) -> None:
    place(tmp_path / "cpu.lock")
    with pytest.raises(ResourceError, match=rf"cpu.lock cannot be opened: .*{message}"), _hold(tmp_path):
        pass


def test_a_link_in_the_place_of_the_line_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cpu.queue").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ResourceError, match=r"cpu.queue cannot be opened: .*FT_PIPELINE_LOCK_DIR"), _hold(tmp_path):
        pass


@pytest.mark.parametrize("place", [_link, os.mkfifo, Path.mkdir, Path.touch])
def test_what_is_no_live_ticket_is_passed_at_once(tmp_path: Path, place: Callable[[Path], None]) -> None:
    (tmp_path / "cpu.queue").mkdir()
    place(tmp_path / "cpu.queue" / _FIRST)
    with _hold(tmp_path):
        pass


def test_a_dead_ticket_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "cpu.queue").mkdir()
    (tmp_path / "cpu.queue" / _FIRST).touch()
    with _hold(tmp_path):
        assert list((tmp_path / "cpu.queue").iterdir()) == []


@contextmanager
def _flock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_who_is_first_and_never_takes_the_free_device_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_PASS_OVER_SECONDS", 0.3)
    said: list[str] = []
    (tmp_path / "cpu.queue").mkdir()
    with _flock(tmp_path / "cpu.queue" / _FIRST):
        started = time.monotonic()
        with _hold(tmp_path, 10, said.append):
            assert 0.3 <= time.monotonic() - started < 5
    assert "free, but not taken yet by who is first; our place in the line: 2" in said[0]


def test_who_is_first_keeps_its_place_while_the_device_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_PASS_OVER_SECONDS", 0.1)
    (tmp_path / "cpu.queue").mkdir()
    with (
        _flock(tmp_path / "cpu.queue" / _FIRST),
        _flock(tmp_path / "cpu.lock"),
        pytest.raises(LeaseTimeout, match="our place in the line: 2"),
        _hold(tmp_path, 0.5),
    ):
        pass


@pytest.mark.parametrize("record", ["", "no json", "[1]", "{}", "[" * 4096, '{"holder": 1, "pid": 2}'])
def test_a_holder_that_does_not_say_who_it_is(tmp_path: Path, record: str) -> None:
    with _flock(tmp_path / "cpu.lock"):
        (tmp_path / "cpu.lock").write_text(record)
        with pytest.raises(LeaseTimeout, match="held by a process that has not said who it is"), _hold(tmp_path):
            pass


def test_a_holders_words_cannot_forge_lines_of_the_log(tmp_path: Path) -> None:
    with _flock(tmp_path / "cpu.lock"):
        (tmp_path / "cpu.lock").write_text('{"holder": "me\\n\\u001b[2Jyou", "pid": 2, "since": "now"}')
        with pytest.raises(LeaseTimeout, match=r"held by me\[2Jyou \(process 2\) since now"), _hold(tmp_path):
            pass


def test_a_lock_file_that_was_removed_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed = (tmp_path / "cpu.lock").open("w")
    fcntl.flock(removed, fcntl.LOCK_EX)
    sleep = time.sleep

    def clean_up_and_sleep(seconds: float) -> None:
        (tmp_path / "cpu.lock").unlink(missing_ok=True)
        (tmp_path / "cpu.lock").touch()
        removed.close()
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", clean_up_and_sleep)
    with _hold(tmp_path, 5), pytest.raises(BlockingIOError), (tmp_path / "cpu.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_ticket_that_is_swept_away_before_it_is_locked_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[str] = []

    def sweep_first(descriptor: int) -> bool:
        if not swept:
            (ticket,) = (tmp_path / "cpu.queue").iterdir()
            ticket.unlink()
            swept.append(ticket.name)
        return try_lock(descriptor)

    monkeypatch.setattr(waiting_line, "try_lock", sweep_first)
    line = WaitingLine(tmp_path / "cpu.queue")
    assert [path.name for path in (tmp_path / "cpu.queue").iterdir()] == [line.name] != swept
    line.leave()


def test_a_folder_that_takes_no_ticket_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> bool:
        return False

    monkeypatch.setattr(waiting_line, "try_lock", refuse)
    with pytest.raises(ResourceError, match="somebody takes every ticket away"):
        WaitingLine(tmp_path / "cpu.queue")
    assert list((tmp_path / "cpu.queue").iterdir()) == []


def test_a_folder_of_locks_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ResourceError, match=r"file/locks cannot be made: .*FT_PIPELINE_LOCK_DIR"),
        _hold(tmp_path / "file/locks"),
    ):
        pass
