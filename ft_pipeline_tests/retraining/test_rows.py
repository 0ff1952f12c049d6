from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.datasets.sources import SourceFile
from ft_pipeline.errors import ArtifactError
from ft_pipeline.fingerprint import hash_file
from ft_pipeline.retraining.rows import RowFolder, count_new

LINES = ['{"text": "one"}', '{"text": "two"}', '{"text": "three"}']


def look_at(path: Path) -> SourceFile:
    return SourceFile("train", path, path.name, hash_file(path), path.stat().st_size, "auto", {})


def write(path: Path, content: str | bytes) -> SourceFile:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return look_at(path)


@pytest.fixture
def folder(tmp_path: Path) -> RowFolder:
    return RowFolder(tmp_path / "store", "mine")


def test_each_line_is_a_row_and_blank_ones_are_none(folder: RowFolder, tmp_path: Path) -> None:
    found = folder.read(write(tmp_path / "a.jsonl", "\n".join([LINES[0], "", "  ", *LINES[1:]]) + "\n"))
    assert (len(found.hashes), found.ends_whole, found.fault) == (3, True, "")


def test_the_same_rows_have_the_same_hashes_wherever_they_stand(folder: RowFolder, tmp_path: Path) -> None:
    one = folder.read(write(tmp_path / "a.jsonl", "\n".join(LINES)))
    other = folder.read(write(tmp_path / "b.jsonl.gz", gzip.compress("\r\n".join(reversed(LINES)).encode())))
    assert sorted(one.hashes) == sorted(other.hashes)


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.parquet"])
def test_rows_of_other_kinds_are_counted_too(folder: RowFolder, tmp_path: Path, name: str) -> None:
    frame = pl.DataFrame({"text": ["one", "two", "three"]})
    match name:
        case "a.json":
            (tmp_path / name).write_text(json.dumps(frame.to_dicts()))
        case "a.csv":
            frame.write_csv(tmp_path / name)
        case _:
            frame.write_parquet(tmp_path / name)
    found = folder.read(look_at(tmp_path / name))
    assert (len(found.hashes), found.ends_whole, found.fault) == (3, True, "")


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("\n".join(LINES), True),
        ("\n".join(LINES)[:-4], False),
        ("\n".join([*LINES, "not JSON"]) + "\n", True),
        ("\n".join([*LINES, "12"]), False),
        ("\n".join([*LINES, "12"]) + "\n", True),
        ("\n".join([*LINES, ""]) + "  ", True),
        ("", True),
    ],
    ids=[
        "no line break at the end",
        "cut in the last row",
        "a broken row that was written to its end",
        "a number that may go on",
        "a number",
        "blanks at the end",
        "empty",
    ],
)
def test_a_file_whose_last_row_is_cut_off_does_not_end_whole(
    folder: RowFolder, tmp_path: Path, text: str, *, whole: bool
) -> None:
    assert folder.read(write(tmp_path / "a.jsonl", text)).ends_whole is whole


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("prompt,completion\na,b\nc,d\n", True),
        ("prompt,completion\r\na,b\r\nc,\r\n", True),
        ('prompt,completion\na,"b\nc"\n', True),
        ("prompt,completion\na,b\nc,", False),
        ("prompt,completion\na,b\nc,d", False),
        ('prompt,completion\na,b\nc,"d"', False),
        ("prompt,completion\na,b\r\nc,d\r", False),
        ('prompt,completion\na,"b\n', False),
        ("prompt,comple", False),
        ("prompt,completion\n", True),
        ("", True),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_csv_file_ends_whole_with_a_line_break_alone(
    folder: RowFolder, tmp_path: Path, name: str, text: str, *, whole: bool
) -> None:
    """A field that was cut off is a field, so `c,d` may go on, and so may `c,"d"`, with a doubled quote."""
    content = gzip.compress(text.encode()) if name.endswith(".gz") else text
    assert folder.read(write(tmp_path / name, content)).ends_whole is whole


def test_a_json_document_that_is_cut_off_does_not_end_whole(folder: RowFolder, tmp_path: Path) -> None:
    assert not folder.read(write(tmp_path / "a.json", f"[{', '.join(LINES)}"[:-5])).ends_whole


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.parquet"])
def test_a_file_that_cannot_be_read_to_its_end_says_so(folder: RowFolder, tmp_path: Path, name: str) -> None:
    whole = tmp_path / name
    if name.endswith(".gz"):
        whole.write_bytes(gzip.compress("\n".join(LINES).encode()))
    else:
        pl.DataFrame({"text": ["one"] * 100}).write_parquet(whole)
    found = folder.read(write(whole, whole.read_bytes()[:-9]))
    assert found.fault
    assert name not in found.fault, "the same bytes may be called otherwise"


def test_a_file_is_read_once(folder: RowFolder, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", "\n".join(LINES))
    first = folder.read(source)
    source.path.unlink()
    assert np.array_equal(folder.read(source).hashes, first.hashes)
    folder.keep_only([])
    assert folder.find(source.rows_key) is None


def test_a_damaged_note_is_read_anew(folder: RowFolder, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", "\n".join(LINES))
    folder.read(source)
    (note,) = (tmp_path / "store/_retraining/mine/rows").iterdir()
    note.write_bytes(note.read_bytes()[:40])
    assert len(folder.read(source).hashes) == 3


def test_what_the_machine_does_not_give_says_nothing_of_the_bytes(folder: RowFolder, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", "\n".join(LINES))
    moved = source.path.rename(tmp_path / "b.jsonl")
    with pytest.raises(OSError, match="No such file"):
        folder.read(source)
    assert len(folder.read(look_at(moved)).hashes) == 3


@pytest.mark.parametrize(("name", "other"), [("a.jsonl", "b.jsonl.gz"), ("a.jsonl.gz", "b.jsonl")])
@pytest.mark.parametrize(
    "content",
    [b"", "\n".join(LINES).encode(), gzip.compress("\n".join(LINES).encode())],
    ids=["empty", "plain", "archive"],
)
def test_an_archive_and_a_plain_file_of_the_same_bytes_are_told_apart(
    folder: RowFolder, tmp_path: Path, name: str, other: str, content: bytes
) -> None:
    folder.read(write(tmp_path / name, content))
    source = write(tmp_path / other, content)
    found, anew = folder.read(source), RowFolder(tmp_path / "store", "other").read(source)
    assert (len(found.hashes), found.ends_whole, found.fault) == (len(anew.hashes), anew.ends_whole, anew.fault)


def test_a_fault_is_not_kept_for_another_version_may_have_none_with_the_file(folder: RowFolder, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", f"[{LINES[0]}]")
    path = tmp_path / f"store/_retraining/mine/rows/{source.sha256}-jsonl.npz"
    assert folder.read(source).fault
    assert not path.exists()
    path.parent.mkdir(parents=True)
    np.savez(path, hashes=np.zeros(0, np.uint64), ends_whole=True, fault="as an earlier version kept it")
    assert folder.find(source.rows_key) is None


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl", "a.parquet"])
def test_long_rows_that_begin_alike_are_different_rows(folder: RowFolder, tmp_path: Path, name: str) -> None:
    frame = pl.DataFrame({"text": [f"{'w' * 30_000}{number}" for number in range(3)]})
    match name.rpartition(".")[2]:
        case "csv":
            frame.write_csv(tmp_path / name)
        case "json":
            frame.write_json(tmp_path / name)
        case "jsonl":
            frame.write_ndjson(tmp_path / name)
        case _:
            frame.write_parquet(tmp_path / name)
    assert len(set(folder.read(look_at(tmp_path / name)).hashes)) == 3


def test_a_file_in_the_place_of_the_folder_is_named(folder: RowFolder, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/_retraining").write_text("")
    with pytest.raises(ArtifactError, match=r"_retraining.* cannot be used: .*Move away what is in its place"):
        folder.read(write(tmp_path / "a.jsonl", LINES[0]))


def test_a_file_that_changes_while_it_is_read_leaves_nothing(folder: RowFolder, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", "\n".join(LINES))
    folder.read(source, lambda: False)
    assert folder.find(source.rows_key) is None


@given(st.lists(st.integers(0, 20)), st.lists(st.integers(0, 20)))
def test_new_rows_are_those_that_were_not_there(now: list[int], before: list[int]) -> None:
    assert count_new([np.array(now, np.uint64)], [np.array(before, np.uint64)]) == len(set(now) - set(before))
