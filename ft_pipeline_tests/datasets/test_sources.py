from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ft_pipeline.datasets.snapshot import RAW_FILE, snapshot_sources
from ft_pipeline.datasets.sources import find_sources
from ft_pipeline.errors import DatasetError, SourceError
from ft_pipeline.recipe import DatasetSection


def _section(*sources: str, **options: object) -> DatasetSection:
    return DatasetSection.model_validate({"sources": sources, **options})


def _write(root: Path, name: str, text: str | bytes = "row\n") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def _snapshot(root: Path, section: DatasetSection) -> list[dict[str, object]]:
    out = root / "out"
    out.mkdir(exist_ok=True)
    snapshot_sources(find_sources(section, root), out)
    rows: list[dict[str, object]] = pq.read_table(out / RAW_FILE).to_pylist()
    return rows


def test_every_line_is_kept_with_its_file_and_number(tmp_path: Path) -> None:
    _write(tmp_path, "data/a.jsonl", "one\r\n\n  \nfour\nlast without end")
    rows = _snapshot(tmp_path, _section("data/*.jsonl"))
    assert [(row["source_file"], row["source_line"], row["text"]) for row in rows] == [
        ("data/a.jsonl", 1, "one"),
        ("data/a.jsonl", 4, "four"),
        ("data/a.jsonl", 5, "last without end"),
    ]


def test_text_that_cannot_be_read_keeps_its_place_with_a_fault(tmp_path: Path) -> None:
    _write(tmp_path, "data/a.jsonl", b"good\nb\xffd\n" + b"x" * ((16 << 20) + 1) + b"\nafter\n")
    rows = _snapshot(tmp_path, _section("data/*.jsonl"))
    assert [(row["source_line"], row["fault"]) for row in rows] == [
        (1, None),
        (2, "invalid_utf8"),
        (3, "line_too_long"),
        (4, None),
    ]
    assert len(str(rows[2]["text"])) == 1000


def test_touching_and_renaming_a_file_changes_nothing(tmp_path: Path) -> None:
    path = _write(tmp_path, "data/a.jsonl", "a\n")
    _write(tmp_path, "data/b.jsonl", "b\n")
    before = [(source.set, source.sha256) for source in find_sources(_section("data/*.jsonl"), tmp_path)]
    os.utime(path, (0, 0))
    path.rename(tmp_path / "data/z.jsonl")
    assert [(source.set, source.sha256) for source in find_sources(_section("data/*.jsonl"), tmp_path)] == before


def test_all_faults_of_the_sources_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "data/folder.jsonl").mkdir(parents=True)
    _write(tmp_path, "elsewhere/secret.jsonl")
    (tmp_path / "data/link.jsonl").symlink_to(tmp_path / "elsewhere/secret.jsonl")
    (tmp_path / "data/loop.jsonl").symlink_to(tmp_path / "data/loop.jsonl")
    with pytest.raises(SourceError) as caught:
        find_sources(_section("data/*.jsonl", "missing/*.jsonl", "../outside.jsonl"), tmp_path)
    text = str(caught.value)
    assert "data/folder.jsonl: is no plain file" in text
    assert "data/link.jsonl: lies in" in text
    assert "outside dataset.allowed_roots" in text
    assert "data/loop.jsonl: cannot be read" in text
    assert "missing/*.jsonl (train): matches no file" in text


def test_an_empty_source_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path, "data/a.jsonl", "\n\n")
    with pytest.raises(DatasetError, match=r"the sources are empty: data/a.jsonl. Add rows"):
        _snapshot(tmp_path, _section("data/*.jsonl"))


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = _write(tmp_path, "data/a.jsonl", "a\n")
    sources = find_sources(_section("data/*.jsonl"), tmp_path)
    path.write_text("b\n")
    with pytest.raises(SourceError, match="changed while it was read"):
        snapshot_sources(sources, tmp_path)
