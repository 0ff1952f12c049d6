from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest

from ft_pipeline.growing_file import hashing


def test_hashes_what_is_appended_meanwhile_and_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with hashing(path) as growing:
        with path.open("wb") as file:
            for part in range(5):
                file.write(bytes([part]) * 1_000_003)
                file.flush()
                time.sleep(0.12)
        assert growing.sha256 == ""
    assert growing.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_error_of_the_writer_gets_through_and_ends_the_thread(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), hashing(tmp_path / "never") as growing:
        raise OSError("full")
    assert growing.sha256 == ""


def test_waits_until_what_is_there_stays_as_it_is(tmp_path: Path) -> None:
    path, settled = tmp_path / "file", threading.Event()
    with hashing(path, settled.is_set) as growing:
        path.write_bytes(b"head" * 1000)
        time.sleep(0.25)
        path.write_bytes(b"HEAD" * 1000)
        settled.set()
        time.sleep(0.25)
        with path.open("ab") as file:
            file.write(b"tail")
    assert growing.sha256 == hashlib.sha256(b"HEAD" * 1000 + b"tail").hexdigest()
