from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.datasets.sources import open as opening
from ft_pipeline.datasets.sources.open import open_source
from ft_pipeline.datasets.sources.suffixes import SUFFIXES, split_suffix
from ft_pipeline.errors import SourceError

_TEXT = b"".join(
    b'{"row": %d, "text": "%s"}\n' % (i, hashlib.sha256(b"%d" % i).hexdigest().encode()) for i in range(500)
)


def _compress(data: bytes, compression: str) -> bytes:
    if compression == "gz":
        return gzip.compress(data)
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def _write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _read(path: Path) -> bytes:
    with open_source(path, f"data/{path.name}") as stream:
        return stream.read()


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_a_compressed_file_reads_like_the_plain_one(tmp_path: Path, compression: str) -> None:
    path = _write(tmp_path, f"a.jsonl.{compression}", _compress(_TEXT, compression))
    with open_source(path, path.name) as stream:
        assert stream.readlines() == _TEXT.splitlines(keepends=True)


def test_a_plain_file_can_seek(tmp_path: Path) -> None:
    with open_source(_write(tmp_path, "a.parquet", _TEXT), "a.parquet") as stream:
        stream.seek(-2, 2)
        assert stream.read() == _TEXT[-2:]


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_archives_that_were_joined_are_read_to_the_end(tmp_path: Path, compression: str) -> None:
    joined = _compress(b"one\n", compression) + _compress(b"two\n", compression)
    assert _read(_write(tmp_path, f"a.jsonl.{compression}", joined)) == b"one\ntwo\n"


@pytest.mark.parametrize("compression", ["gz", "zst"])
@pytest.mark.parametrize("kept_share", [0.01, 0.5, 0.999])
def test_a_truncated_archive_is_named(tmp_path: Path, compression: str, kept_share: float) -> None:
    whole = _compress(_TEXT, compression)
    path = _write(tmp_path, f"a.jsonl.{compression}", whole[: max(1, int(len(whole) * kept_share))])
    with pytest.raises(SourceError, match=rf"data/a.jsonl.{compression}: is truncated or no {compression} archive"):
        _read(path)


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_an_empty_file_is_no_archive(tmp_path: Path, compression: str) -> None:
    with pytest.raises(SourceError, match=rf"data/a.csv.{compression}: is empty, and so no {compression} archive"):
        _read(_write(tmp_path, f"a.csv.{compression}", b""))


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_plain_text_under_an_archives_name_is_named(tmp_path: Path, compression: str) -> None:
    with pytest.raises(SourceError, match=rf"is truncated or no {compression} archive"):
        _read(_write(tmp_path, f"a.jsonl.{compression}", _TEXT))


def test_a_flipped_bit_in_gzip_is_noticed(tmp_path: Path) -> None:
    whole = bytearray(_compress(_TEXT, "gz"))
    whole[len(whole) // 2] ^= 0x10
    with pytest.raises(SourceError, match="is truncated or no gz archive"):
        _read(_write(tmp_path, "a.jsonl.gz", bytes(whole)))


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_a_bomb_stops_at_its_limit_with_both_sizes(
    tmp_path: Path, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "MIN_LIMIT_BYTES", 1 << 20)
    monkeypatch.setattr(opening, "MAX_RATIO", 2)
    path = _write(tmp_path, f"a.jsonl.{compression}", _compress(bytes(8 << 20), compression))
    size_bytes = path.stat().st_size
    with pytest.raises(SourceError, match=rf"{size_bytes} bytes become more than {1 << 20} when decompressed"):
        _read(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"data/a.jsonl: cannot be read: No such file"):
        _read(tmp_path / "a.jsonl")


@given(st.sampled_from(sorted(SUFFIXES)), st.text(st.characters(exclude_characters="/?", codec="utf-8"), min_size=1))
def test_every_name_before_a_known_suffix_is_allowed(suffix: str, stem: str) -> None:
    assert split_suffix(stem + suffix) == SUFFIXES[suffix]
    assert split_suffix(f"https://host/{'a'}{suffix}?token=***") == SUFFIXES[suffix]


@pytest.mark.parametrize("name", ["a.txt", "a", ".jsonl", "a.jsonl.bz2", "a.gz", "https://host/get?file=a.jsonl"])
def test_an_unknown_suffix_is_told_with_the_known_ones(name: str) -> None:
    with pytest.raises(SourceError, match=r"must end in one of .jsonl, .ndjson, .json, .csv, .parquet, each also with"):
        split_suffix(name)
