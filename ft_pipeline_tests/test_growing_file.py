from __future__ import annotations

import hashlib
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
