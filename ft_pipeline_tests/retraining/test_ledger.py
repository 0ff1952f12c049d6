from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ft_pipeline.errors import ArtifactError
from ft_pipeline.retraining.ledger import Book, Judged, Ledger, Outcome

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def judged(data: str, outcome: Outcome = "published", run: str = "r1") -> Judged:
    return Judged(
        data=data,
        outcome=outcome,
        run=run,
        validated=f"v{data}",
        contract="c",
        began_at=BEGAN,
        at=BEGAN + timedelta(hours=1),
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path, "mine")


def test_a_recipe_that_was_never_trained_has_an_empty_book(ledger: Ledger) -> None:
    assert ledger.read() == Book()


def test_a_verdict_is_written_once_for_a_run(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.add(judged("a"))
    ledger.add(judged("a", run="r2"))
    assert [entry.run for entry in ledger.read().judged] == ["r1", "r2"]


def test_a_content_that_was_refused_was_not_trained(ledger: Ledger) -> None:
    ledger.add(judged("a"))
    ledger.add(judged("b", "refused"))
    book = ledger.read()
    assert book.last_trained == judged("a")
    refused = judged("b", "refused")
    assert book.find("b", refused.contract) == refused
    assert book.find("b", "other words") is None


def test_what_came_before_a_content_stays_the_same_when_it_is_trained_again() -> None:
    book = Book(judged=(judged("a"), judged("b"), judged("c", "refused"), judged("b", run="r2"), judged("d")))
    assert [entry and entry.data for entry in map(book.before, "abde")] == [None, "a", "b", "d"]


def test_a_book_of_a_newer_version_is_left_alone(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "_retraining/mine/ledger.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"format": 2, "judged": {}}')
    with pytest.raises(ArtifactError, match=r"has format 2, and this version reads up to 1: it was written by a newer"):
        ledger.add(judged("a"))
    assert path.read_text() == '{"format": 2, "judged": {}}'


def test_a_file_in_the_place_of_the_folder_is_named(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "_retraining").write_text("")
    for use in (ledger.read, lambda: ledger.add(judged("a"))):
        with pytest.raises(ArtifactError, match=r"_retraining.* cannot be used: .*Move away what is in its place"):
            use()


def test_a_book_that_does_not_read_says_what_to_do(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "_retraining/mine/ledger.json"
    path.parent.mkdir(parents=True)
    path.write_text("[half")
    with pytest.raises(ArtifactError, match=r"does not read. Restore it from a backup, or remove it"):
        ledger.read()
