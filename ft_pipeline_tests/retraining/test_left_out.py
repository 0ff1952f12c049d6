"""Files that are not whole or no files at all: how long they are waited for, and what goes on without them."""

from __future__ import annotations

import gzip
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ft_pipeline.errors import SourceError
from ft_pipeline.retraining.ledger import Ledger
from ft_pipeline_tests.retraining.looked_at import Project, project
from ft_pipeline_tests.user_project import ROW

__all__ = ["project"]


def test_a_half_written_row_is_waited_for_and_then_taken_as_it_is(project: Project) -> None:
    path = project.write("new.jsonl", range(100, 110))
    path.write_text(path.read_text()[:-9])
    project.now = datetime.now(UTC) + timedelta(minutes=30)
    assert "on their way: data/new.jsonl ends in the middle of a row, or lacks its last line break" in project.rest()
    project.now += timedelta(hours=1)
    assert project.due().reason == "30 new rows in 2 files"


def test_an_archive_that_was_cut_off_is_never_taken(project: Project) -> None:
    whole = gzip.compress("".join(ROW % (number, number) for number in range(100, 200)).encode())
    (project.root / "data/new.jsonl.gz").write_bytes(whole[:-20])
    project.sources = ["data"]
    assert "left out: data/new.jsonl.gz is truncated" in project.due().reason


def test_an_archive_that_is_empty_is_never_taken_though_an_empty_file_is(project: Project) -> None:
    project.sources = ["data/*.jsonl*"]
    (project.root / "data/placeholder.jsonl").touch()
    (project.root / "data/new.jsonl.gz").touch()
    assert "20 new rows in 2 files; left out: data/new.jsonl.gz is empty" in project.due().reason


def test_a_file_that_was_no_archive_is_taken_when_its_name_says_so(project: Project) -> None:
    project.sources = ["data/*.jsonl*"]
    path = project.write("new.jsonl.gz", range(100, 110))
    assert "left out: data/new.jsonl.gz is truncated or no gz archive" in project.due().reason
    path.rename(path.with_suffix(""))
    assert project.due().reason == "30 new rows in 2 files"


def spoil(path: Path, how: str) -> None:
    """Put something there that is no file of a data set."""
    match how:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case _:
            path.symlink_to(
                {"dangling link": "nowhere", "loop of links": path.name, "link that leads out": "/etc"}[how]
            )


@pytest.mark.parametrize(
    ("source", "how"),
    [
        *(("data/new/*.jsonl", how) for how in ("dangling link", "loop of links", "folder", "pipe")),
        *(("data/new", how) for how in ("dangling link", "link that leads out")),
    ],
)
def test_what_is_no_file_is_waited_for_and_then_left_out(project: Project, source: str, how: str) -> None:
    (project.root / "data/new").mkdir()
    project.write("new/rows.jsonl", range(100, 110))
    project.sources = [source]
    spoil(project.root / "data/new/z.jsonl", how)
    assert re.match(r"10 new rows in 1 file; left out: .*/z.jsonl: ", project.due().reason)
    project.now = datetime.now(UTC) + timedelta(minutes=30)
    assert re.match(r"waits for files that are on their way: .*/z.jsonl: ", project.rest())
    with pytest.raises(SourceError, match=r"z.jsonl: .* \(train\)"):
        project.train()


def test_what_is_no_file_holds_up_what_may_have_been_replaced_by_it(project: Project) -> None:
    project.write("more.jsonl", range(100, 120))
    project.train(project.due().data)
    project.write("new.jsonl", range(200, 220))
    path = project.root / "data/rows.jsonl"
    path.unlink()
    spoil(path, "dangling link")
    assert re.match(r"waits for files that may hold what was trained on before: .*/rows.jsonl: ", project.rest())


def test_what_is_no_file_of_a_test_set_is_waited_for(project: Project) -> None:
    (project.root / "data/tests").mkdir()
    project.write("tests/asked.jsonl", range(200, 210))
    spoil(project.root / "data/tests/z.jsonl", "dangling link")
    project.test_sets = {"asked": ["data/tests"]}
    assert project.rest().startswith("waits for a test set, without which nothing is judged: ")


def test_what_is_no_file_and_came_while_a_run_was_queued_does_not_stop_it(project: Project) -> None:
    due = project.due()
    spoil(project.root / "data/z.jsonl", "dangling link")
    project.train(due.data)
    assert Ledger(project.store_root, "mine").read().find(due.data, due.contract)


def test_a_run_whose_file_was_replaced_by_what_is_none_says_so(project: Project) -> None:
    due = project.due()
    path = project.root / "data/rows.jsonl"
    path.unlink()
    spoil(path, "loop of links")
    with pytest.raises(SourceError, match=r"started for; data/rows.jsonl is gone .* \(.*/rows.jsonl: cannot be read"):
        project.train(due.data)
