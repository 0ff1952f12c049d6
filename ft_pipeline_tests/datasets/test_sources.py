from __future__ import annotations

import os
from pathlib import Path

import pytest

from ft_pipeline.datasets.sources import SourceFile, find_sources
from ft_pipeline.errors import SourceError
from ft_pipeline.recipe import DatasetSection


def _section(*sources: str, **options: object) -> DatasetSection:
    return DatasetSection.model_validate({"sources": sources, **options})


def _write(root: Path, name: str, text: str | bytes = "row\n") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def _find(root: Path, section: DatasetSection) -> tuple[SourceFile, ...]:
    return find_sources(section, root, root / "downloads")


def _names(root: Path, *sources: str, **options: object) -> list[str]:
    return sorted(source.name for source in _find(root, _section(*sources, **options)))


def test_touching_and_renaming_a_file_changes_nothing(tmp_path: Path) -> None:
    path = _write(tmp_path, "data/a.jsonl", "a\n")
    _write(tmp_path, "data/b.jsonl", "b\n")
    before = [(source.set, source.sha256) for source in _find(tmp_path, _section("data/*.jsonl"))]
    os.utime(path, (0, 0))
    path.rename(tmp_path / "data/z.jsonl")
    assert [(source.set, source.sha256) for source in _find(tmp_path, _section("data/*.jsonl"))] == before


def test_all_faults_of_the_sources_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "data/folder.jsonl").mkdir(parents=True)
    _write(tmp_path, "elsewhere/secret.jsonl")
    (tmp_path / "data/link.jsonl").symlink_to(tmp_path / "elsewhere/secret.jsonl")
    (tmp_path / "data/loop.jsonl").symlink_to(tmp_path / "data/loop.jsonl")
    with pytest.raises(SourceError) as caught:
        _find(tmp_path, _section("data/*.jsonl", "missing/*.jsonl", "../outside.jsonl"))
    text = str(caught.value)
    assert "data/folder.jsonl: is no plain file" in text
    assert "data/link.jsonl: lies in" in text
    assert "outside dataset.allowed_roots" in text
    assert "data/loop.jsonl: cannot be read" in text
    assert "missing/*.jsonl: matches no file" in text
    assert text.count("(train)") == 5


def test_a_folder_gives_all_files_with_a_known_suffix_below_it_and_no_hidden_ones(tmp_path: Path) -> None:
    for name in ("a.jsonl", "deep/er/b.csv.gz", "deep/c.parquet", "notes.md", ".hidden.jsonl", ".git/d.jsonl"):
        _write(tmp_path, f"data/{name}")
    assert _names(tmp_path, "data") == ["data/a.jsonl", "data/deep/c.parquet", "data/deep/er/b.csv.gz"]
    assert _names(tmp_path, "data/") == _names(tmp_path, "data")
    assert _names(tmp_path, str(tmp_path / "data")) == _names(tmp_path, "data")


def test_a_glob_leaves_hidden_files_out_unless_it_names_them(tmp_path: Path) -> None:
    for name in ("a.jsonl", ".b.jsonl", ".folder/c.jsonl", "folder/d.jsonl"):
        _write(tmp_path, f"data/{name}")
    assert _names(tmp_path, "data/**/*.jsonl") == ["data/a.jsonl", "data/folder/d.jsonl"]
    assert _names(tmp_path, "data/.*.jsonl") == ["data/.b.jsonl"]


def test_a_folder_that_links_to_itself_is_walked_once(tmp_path: Path) -> None:
    _write(tmp_path, "data/a.jsonl")
    (tmp_path / "data/again").symlink_to(tmp_path / "data")
    assert _names(tmp_path, "data") == ["data/a.jsonl"]


def test_a_link_to_a_folder_elsewhere_is_refused_and_not_walked(tmp_path: Path) -> None:
    _write(tmp_path, "elsewhere/a.jsonl")
    _write(tmp_path, "data/b.jsonl")
    (tmp_path / "data/away").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match=r"data/away: lies in .*elsewhere.* outside dataset.allowed_roots"):
        _names(tmp_path, "data")
    assert _names(tmp_path, "data", allowed_roots=["data", "elsewhere"]) == ["data/away/a.jsonl", "data/b.jsonl"]


@pytest.mark.parametrize("pattern", ["/**/*.jsonl", "../**/*.jsonl", "/", ".."])
def test_a_place_outside_the_allowed_roots_is_refused_before_it_is_searched(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(SourceError, match=r"outside dataset.allowed_roots"):
        _names(tmp_path, pattern)


def test_odd_files_are_told_at_once(tmp_path: Path) -> None:
    _write(tmp_path, "data/good.jsonl")
    os.mkfifo(tmp_path / "data/pipe.jsonl")
    (tmp_path / "data/broken.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "data/device.jsonl").symlink_to("/dev/zero")
    (tmp_path / "data/folder.json").mkdir()
    _write(tmp_path, "data/notes.md")
    with pytest.raises(SourceError) as caught:
        _names(tmp_path, "data/*", "data/../data/pipe.jsonl", "data/none.csv", allowed_roots=["data", "/dev"])
    told = str(caught.value).splitlines()[1:]
    for said in (
        "data/pipe.jsonl: is no plain file",
        "data/broken.jsonl: cannot be read: No such file",
        "data/device.jsonl: is no plain file",
        "data/folder.json: is no plain file",
        "data/notes.md: a source's name must end in one of .jsonl, .ndjson, .json, .csv, .parquet, each also with .gz",
        "data/none.csv: matches no file",
    ):
        assert any(said in fault for fault in told), said
    assert not any("good" in fault for fault in told)


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    _write(tmp_path, "data/a.jsonl").chmod(0)
    with pytest.raises(SourceError, match=r"data/a.jsonl: cannot be read: Permission denied"):
        _names(tmp_path, "data")


def test_names_with_control_characters_are_shown_on_one_line(tmp_path: Path) -> None:
    _write(tmp_path, "data/a\nb\x1b[31m.jsonl")
    assert _names(tmp_path, "data") == [r"data/a\nb\x1b[31m.jsonl"]


def test_a_name_with_glob_characters_is_taken_literally_where_it_exists(tmp_path: Path) -> None:
    _write(tmp_path, "data/a[1].jsonl")
    _write(tmp_path, "data/a1.jsonl")
    assert _names(tmp_path, "data/a[1].jsonl") == ["data/a[1].jsonl"]


@pytest.mark.parametrize("path", ["data/\0.jsonl", "data/" + "x" * 300 + ".jsonl", "data/**a**/*.jsonl"])
def test_an_unusable_path_is_an_error_that_shows_it(tmp_path: Path, path: str) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(SourceError, match=r"data/.*: (is no usable path or pattern|matches no file)"):
        _names(tmp_path, path)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data/empty").mkdir(parents=True)
    with pytest.raises(SourceError, match=r"data/empty: has no file with a known suffix below it"):
        _names(tmp_path, "data/empty")


def test_format_and_columns_are_the_sources_or_else_the_data_sets(tmp_path: Path) -> None:
    _write(tmp_path, "data/a.jsonl", "a\n")
    _write(tmp_path, "data/b.csv", "b\n")
    own = {"path": "data/b.csv", "format": "alpaca", "columns": {"instruction": "ask"}}
    section = DatasetSection.model_validate(
        {"sources": ["data/a.jsonl", own], "format": "sharegpt", "columns": {"group": "id"}}
    )
    found = {source.name: (source.format, source.columns, source.kind) for source in _find(tmp_path, section)}
    assert found == {
        "data/a.jsonl": ("sharegpt", {"group": "id"}, "jsonl"),
        "data/b.csv": ("alpaca", {"instruction": "ask"}, "csv"),
    }


def test_a_file_named_twice_counts_once_and_not_with_two_formats(tmp_path: Path) -> None:
    _write(tmp_path, "data/a.jsonl")
    assert _names(tmp_path, "data", "data/a.jsonl", "data/*.jsonl") == ["data/a.jsonl"]
    section = DatasetSection.model_validate({"sources": ["data", {"path": "data/a.jsonl", "format": "text"}]})
    with pytest.raises(SourceError, match=r"data/a.jsonl: is named twice, with two formats or columns"):
        _find(tmp_path, section)


def test_test_sets_take_the_same_kinds_of_sources(tmp_path: Path) -> None:
    _write(tmp_path, "data/a.jsonl", "a\n")
    _write(tmp_path, "data/hard/b.csv", "b\n")
    found = _find(tmp_path, _section("data/a.jsonl", test_sets={"hard": [{"path": "data/hard", "format": "text"}]}))
    assert [(source.set, source.name, source.format) for source in found] == [
        ("hard", "data/hard/b.csv", "text"),
        ("train", "data/a.jsonl", "auto"),
    ]


def test_fields_of_the_hub_are_refused_for_other_sources(tmp_path: Path) -> None:
    _write(tmp_path, "data/a.jsonl")
    section = DatasetSection.model_validate({"sources": [{"path": "data/a.jsonl", "split": "test"}]})
    with pytest.raises(SourceError, match=r"data/a.jsonl: split can be given only for data sets of the Hub"):
        _find(tmp_path, section)


def test_a_source_with_fields_of_the_hub_is_shown_without_its_credentials(tmp_path: Path) -> None:
    source = {"path": "https://user:SECRETPART@x.test/a.jsonl", "split": "test"}
    with pytest.raises(SourceError, match=r"x\.test/a\.jsonl: split can be given only") as caught:
        _find(tmp_path, DatasetSection.model_validate({"sources": [source]}))
    assert "SECRETPART" not in str(caught.value)


@pytest.mark.parametrize("source", ["data", "data/**/*.jsonl", "data/linked", "data/linked/*.jsonl"])
def test_what_the_pipeline_has_made_is_no_data(tmp_path: Path, source: str) -> None:
    _write(tmp_path, "data/mine/a.jsonl", "a\n")
    for own in ("artifacts/raw_dataset/1/rows.jsonl", "artifacts/_runs/1.jsonl", "published/.versions/x/x.jsonl"):
        _write(tmp_path, f"data/{own}", f"{own}\n")
    (tmp_path / "data/published/x").symlink_to(".versions/x")
    (tmp_path / "data/linked").mkdir()
    links = {"0.jsonl": "mine/a.jsonl", "1": "artifacts", "2": "published/x", "3.jsonl": "artifacts/_runs/1.jsonl"}
    for name, target in links.items():
        (tmp_path / "data/linked" / name).symlink_to(f"../{target}")
    found = find_sources(_section(source), tmp_path, tmp_path / "data/artifacts/_downloads", _own(tmp_path))
    assert [file.path for file in found] == [tmp_path / "data/mine/a.jsonl"]


@pytest.mark.parametrize(
    "source", ["data/artifacts", "data/artifacts/*/*/*.jsonl", "data/link.jsonl", "data/published/x"]
)
def test_a_source_that_names_what_the_pipeline_has_made_is_refused(tmp_path: Path, source: str) -> None:
    made = _write(tmp_path, "data/artifacts/raw_dataset/1/rows.jsonl")
    (tmp_path / "data/link.jsonl").symlink_to(made)
    _write(tmp_path, "data/published/.versions/x/champion.json")
    (tmp_path / "data/published/x").symlink_to(".versions/x")
    with pytest.raises(SourceError, match=r"lies in .*/data/(artifacts|published), which the pipeline writes itself"):
        find_sources(_section(source), tmp_path, tmp_path / "data/artifacts/_downloads", _own(tmp_path))


def _own(root: Path) -> tuple[Path, ...]:
    return root / "data/artifacts", root / "data/published"
