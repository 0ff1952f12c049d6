from __future__ import annotations

from pathlib import Path

import pytest

from ft_pipeline.errors import PublicationError
from ft_pipeline.publishing.alias import list_published, promote, read_champion


def _promote(folder: Path, gguf: str, against: str | None) -> None:
    promote(folder, "demo", gguf_model=gguf, evaluation_report=f"report-of-{gguf}", against=against)


def test_there_is_no_champion_at_first(tmp_path: Path) -> None:
    assert read_champion(tmp_path, "demo") is None
    assert list_published(tmp_path) == []


def test_a_better_model_takes_the_place_and_remembers_the_one_before(tmp_path: Path) -> None:
    _promote(tmp_path, "first", None)
    _promote(tmp_path, "second", "first")
    champion = read_champion(tmp_path, "demo")
    assert champion is not None
    assert (champion.gguf_model, champion.against) == ("second", "first")
    assert champion.previous is not None
    assert champion.previous.gguf_model == "first"
    assert list_published(tmp_path) == [
        ("gguf_model", "second"),
        ("evaluation_report", "report-of-second"),
        ("gguf_model", "first"),
    ]


def test_publishing_the_champion_again_changes_nothing(tmp_path: Path) -> None:
    _promote(tmp_path, "first", None)
    before = (tmp_path / "demo.champion.json").read_bytes()
    _promote(tmp_path, "first", None)
    assert (tmp_path / "demo.champion.json").read_bytes() == before


def test_a_report_against_another_champion_does_not_publish(tmp_path: Path) -> None:
    _promote(tmp_path, "first", None)
    with pytest.raises(PublicationError, match=r"compares with the champion none, and it is first now"):
        _promote(tmp_path, "late", None)
    champion = read_champion(tmp_path, "demo")
    assert champion is not None
    assert champion.gguf_model == "first"


def test_a_damaged_alias_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "demo.champion.json").write_text("{")
    with pytest.raises(PublicationError, match=r"demo.champion.json does not read"):
        read_champion(tmp_path, "demo")
