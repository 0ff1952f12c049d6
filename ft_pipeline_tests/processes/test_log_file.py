from __future__ import annotations

from pathlib import Path

from ft_pipeline.processes.log_file import cut_log


def test_a_log_that_has_grown_too_long_keeps_its_end_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "stage.log"
    with path.open("ab", buffering=0) as writer:
        for number in range(1000):
            writer.write(b"line %d\n" % number)
        cut_log(path, most_bytes=5000, kept_bytes=100)
        writer.write(b"a line after that\n")
    lines = path.read_text().splitlines()
    assert lines[0] == "[what was here before is gone: the log had grown too long]"
    assert lines[-2:] == ["line 999", "a line after that"]
    assert path.stat().st_size < 200


def test_a_short_log_or_none_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "stage.log"
    cut_log(path, most_bytes=10)
    assert not path.exists()
    path.write_text("0123456789")
    cut_log(path, most_bytes=10)
    assert path.read_text() == "0123456789"
