"""One look at a folder, with files of this machine and its clock: what is found, what is decided, and why."""

from __future__ import annotations

import os
import shutil
import time
from datetime import UTC, datetime, timedelta

import pytest

from ft_pipeline.errors import ArtifactError, SourceError
from ft_pipeline.file_lock import lock_file
from ft_pipeline.recipe_file import load_recipe
from ft_pipeline.retraining import arrivals
from ft_pipeline.retraining.content import Content
from ft_pipeline.retraining.decision import Rest, StartedRun
from ft_pipeline.retraining.declared import look
from ft_pipeline.retraining.folder import recipe_folder
from ft_pipeline.retraining.ledger import Judged, Ledger
from ft_pipeline.retraining.retrainer import Due, Retrainer
from ft_pipeline.run import Run
from ft_pipeline_tests.retraining.looked_at import START, Project, project
from ft_pipeline_tests.user_project import ROW

__all__ = ["project"]


def test_files_that_came_together_start_one_run(project: Project) -> None:
    for number in range(3):
        project.write(f"new{number}.jsonl", range(100 * number + 100, 100 * number + 110))
    assert project.due().reason == "50 new rows in 4 files"


def test_what_was_trained_on_is_not_trained_on_again(project: Project) -> None:
    project.train(project.due().data)
    assert "nothing new: run 0-1 was trained on this data" in project.rest()


def test_a_run_that_a_person_started_counts_too(project: Project) -> None:
    project.look()
    project.train()
    assert "nothing new: run 0-1 was trained on this data" in project.rest()


def test_names_and_time_stamps_are_no_content(project: Project) -> None:
    data = project.due().data
    path = project.root / "data/rows.jsonl"
    content = path.read_bytes()
    moved = path.rename(path.with_name("other.jsonl"))
    assert project.due().data == data
    moved.write_bytes(content)
    os.utime(moved, (1, 1))
    assert project.due().data == data
    moved.write_bytes(content[:-30])
    assert project.due().data != data


def test_a_file_that_changed_a_moment_ago_is_waited_for_whatever_its_time_stamp_says(project: Project) -> None:
    os.utime(project.root / "data/rows.jsonl", (1, 1))
    project.now = datetime.now(UTC)
    assert project.rest().startswith("no file is quiet and whole yet: data/rows.jsonl changed")


def test_a_file_from_a_time_that_the_clock_has_been_set_back_from_is_quiet(project: Project) -> None:
    project.now = START - timedelta(days=3)
    assert project.due().attempt == 1


def test_the_others_do_not_wait_for_a_file_that_goes_on_changing_for_ever(project: Project) -> None:
    project.settings |= {"quiet_seconds": 3, "longest_wait_minutes": 0.05}
    time.sleep(4)
    project.write("log.jsonl", range(5))
    project.now = datetime.now(UTC)
    assert "left out: data/log.jsonl changed" in project.due().reason
    project.settings |= {"longest_wait_minutes": 60}
    assert project.rest().startswith("waits for files that are on their way: data/log.jsonl changed")
    due = project.look(is_patient=False)
    assert isinstance(due, Due), due


def touch_now(project: Project, name: str) -> None:
    """At the moment of the look, two hours from now, this file has just been changed."""
    path = project.root / "data" / name
    project.monkeypatch.setattr(
        arrivals,
        "changed_at",
        lambda one: time.time() + 7200 if one == path else one.stat().st_ctime,
    )


@pytest.mark.parametrize("is_patient", [True, False])
def test_what_was_trained_on_before_is_never_left_out_because_it_changes(project: Project, is_patient: bool) -> None:
    project.settings["longest_wait_minutes"] = 0
    project.train(project.due().data)
    project.write("more.jsonl", range(100, 120))
    touch_now(project, "rows.jsonl")
    reason = project.rest(is_patient=is_patient)
    assert reason.startswith("waits for files that may hold what was trained on before: data/rows.jsonl changed")


@pytest.mark.parametrize("is_patient", [True, False])
def test_a_test_set_is_never_left_out(project: Project, is_patient: bool) -> None:
    project.settings["longest_wait_minutes"] = 0
    (project.root / "data/tests").mkdir()
    project.write("tests/asked.jsonl", range(200, 210))
    project.test_sets = {"asked": ["data/tests/*.jsonl"]}
    touch_now(project, "tests/asked.jsonl")
    assert project.rest(is_patient=is_patient).startswith("waits for a test set")


def test_rows_that_were_trained_on_are_not_new_in_another_file(project: Project) -> None:
    project.train(project.due().data)
    project.write("again.jsonl", range(5, 15))
    assert project.rest() == "0 new training rows, retraining.min_new_rows is 1"


@pytest.mark.parametrize("comes", [True, False])
def test_a_copy_that_comes_or_goes_while_a_run_is_queued_is_no_other_content(project: Project, *, comes: bool) -> None:
    rows, copy = project.root / "data/rows.jsonl", project.root / "data/copy.jsonl"
    if not comes:
        shutil.copy(rows, copy)
    due = project.due()
    if comes:
        shutil.copy(rows, copy)
    else:
        copy.unlink()
    project.train(due.data)
    assert "nothing new: run 0-1 was trained on this data" in project.rest()
    project.settings["min_new_rows"] = 10
    project.write("more.jsonl", range(100, 105))
    assert project.rest() == "5 new training rows, retraining.min_new_rows is 10"


def test_data_with_a_copy_that_an_earlier_version_was_trained_on_does_not_count_as_new(project: Project) -> None:
    project.settings["min_new_rows"] = 5
    shutil.copy(project.root / "data/rows.jsonl", project.root / "data/copy.jsonl")
    project.train(project.due().data)
    folder = project.store_root / "_retraining/mine"
    (content,) = (folder / "contents").iterdir()
    earlier = Content.model_validate_json(content.read_bytes()).digest_of_format_0
    content.rename(content.with_stem(earlier))
    ledger = folder / "ledger.json"
    ledger.write_text(ledger.read_text().replace(content.stem, earlier))
    assert project.rest() == "0 new training rows, retraining.min_new_rows is 5"
    project.write("more.jsonl", range(100, 105))
    for _ in range(2):  # what a look keeps is enough for the next one
        assert project.due().reason == "5 new rows in 3 files"


def test_too_few_new_rows_wait_for_more(project: Project) -> None:
    project.settings["min_new_rows"] = 10
    project.train(project.due().data)
    path = project.root / "data/rows.jsonl"
    path.write_text(path.read_text() + "".join(ROW % (number, number) for number in range(100, 109)))
    assert project.rest() == "9 new training rows, retraining.min_new_rows is 10"
    project.write("more.jsonl", range(200, 201))
    assert project.due().reason == "10 new rows in 2 files"


def test_rows_that_were_only_moved_or_taken_away_are_not_new(project: Project) -> None:
    project.write("more.jsonl", range(100, 120))
    project.train(project.due().data)
    path = project.root / "data/rows.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:10]))
    project.root.joinpath("data/rest.jsonl").write_text("".join(reversed(lines[12:])))
    assert project.rest() == "0 new training rows, retraining.min_new_rows is 1"
    project.settings["min_new_rows"] = 0
    assert project.due().reason == "0 new rows in 3 files"


def test_new_data_waits_until_runs_may_follow_each_other(project: Project) -> None:
    project.settings["min_hours_between_runs"] = 24
    project.train(project.due().data)
    project.write("more.jsonl", range(100, 120))
    assert "new data waits for 22.0 h more: run 0-1 began 2.0 h ago" in project.rest()
    project.now = START + timedelta(hours=25)
    assert project.due().attempt == 1


def test_a_run_that_goes_on_is_waited_for(project: Project) -> None:
    due = project.due()
    project.start(due, "going")
    assert project.rest() == "run 0-1 is at this data"
    project.write("more.jsonl", range(100, 120))
    assert project.rest() == "run 0-1 is at earlier data; what has come since waits for its end"


def test_a_run_that_a_person_started_and_that_goes_on_is_waited_for(project: Project) -> None:
    project.look()
    run = Run(lambda: load_recipe(project.root / "recipes/mine.yaml"), project.root, project.store_root, ["a-b"])
    run.pin()
    assert project.rest() == "run a-b, which was not started by retraining, is at this data"
    run.close()
    assert project.due().attempt == 1


def test_a_failed_run_is_tried_again_later_each_time_and_then_no_more(project: Project) -> None:
    project.settings |= {"max_retries": 2, "retry_minutes": 10}
    due = project.due()
    for attempt, minutes in ((2, 10), (3, 20)):
        project.now = START + timedelta(hours=5)
        project.start(due, "failed", f"0-{attempt - 1}", project.now - timedelta(minutes=minutes - 1))
        assert "it is tried again in 60 s" in project.rest()
        project.now += timedelta(minutes=1)
        due = project.due()
        assert due.attempt == attempt
    project.start(due, "failed", "0-3", project.now)
    project.now += timedelta(days=9)
    assert project.rest().startswith("3 runs on this data have failed, the last is 0-3; waits for other data.")
    project.write("more.jsonl", range(100, 120))
    assert project.due().attempt == 1


def test_a_run_that_nobody_has_begun_with_is_asked_for_again(project: Project) -> None:
    due = project.due()
    project.start(due, "unlaunched")
    assert project.due() == due


def test_what_a_person_has_cancelled_is_left_alone(project: Project) -> None:
    project.start(project.due(), "cancelled")
    assert project.rest() == "run 0-1 on this data was cancelled by a person; waits for other data"


def test_refused_data_is_not_tried_again_unless_the_recipe_says_otherwise_of_it(project: Project) -> None:
    due = project.due()
    run = Run(lambda: load_recipe(project.root / "recipes/mine.yaml"), project.root, project.store_root, ["a-b"])
    run.pin()
    run.judge("refused", "v")
    run.close()
    project.settings["max_retries"] = 0
    project.start(due, "failed", "a-b", START)
    assert "run a-b has refused this data" in project.rest()
    recipe = load_recipe(project.root / "recipes/mine.yaml", {"dataset.max_quarantined_share": 0.5})
    later = datetime.now(UTC) + timedelta(days=1)
    found = Retrainer(recipe, project.root, project.store_root).look(project.started, later)
    assert isinstance(found, Due)
    assert (found.data, found.attempt) == (due.data, 2)
    assert found.contract != due.contract


def test_a_run_whose_fields_were_changed_for_it_does_not_count(project: Project) -> None:
    project.look()
    recipe = project.root / "recipes/mine.yaml"
    run = Run(lambda: load_recipe(recipe), project.root, project.store_root, ["a-b"], is_trial=True)
    run.pin()
    run.judge("published", "v")
    run.close()
    assert project.due().attempt == 1


def test_a_jump_of_the_clock_does_not_let_runs_follow_each_other_at_once(project: Project) -> None:
    project.settings["min_hours_between_runs"] = 24
    due = project.due()
    project.train(due.data)
    ledger = Ledger(project.store_root, "mine")
    (entry,) = ledger.read().judged
    ahead = entry.model_copy(update={"run": "0-2", "data": "0" * 24, "began_at": START + timedelta(days=40)})
    ledger.add(ahead)
    project.write("more.jsonl", range(100, 120))
    assert project.rest().startswith("new data waits for")


def test_a_folder_that_is_empty_says_so(project: Project) -> None:
    (project.root / "data/rows.jsonl").unlink()
    assert "the data cannot be looked at" in project.rest()
    assert "matches no file" in project.rest()


def test_a_run_takes_what_it_was_started_for_and_nothing_that_came_later(project: Project) -> None:
    due = project.due()
    project.write("later.jsonl", range(100, 120))
    run = Run(lambda: load_recipe(project.root / "recipes/mine.yaml"), project.root, project.store_root, data=due.data)
    assert [source.name for source in run.pin()] == ["data/rows.jsonl"]


def test_a_run_whose_data_has_changed_since_says_so(project: Project) -> None:
    due = project.due()
    (project.root / "data/rows.jsonl").write_text(ROW % (1, 1))
    run = Run(lambda: load_recipe(project.root / "recipes/mine.yaml"), project.root, project.store_root, data=due.data)
    with pytest.raises(
        SourceError, match=r"started for; data/rows.jsonl is gone or was changed since. Nothing is lost"
    ):
        run.pin()


@pytest.mark.parametrize("data", ["0" * 24, "../../etc/passwd", "x"])
def test_a_run_for_data_that_nobody_has_seen_is_refused(project: Project, data: str) -> None:
    project.look()
    run = Run(lambda: load_recipe(project.root / "recipes/mine.yaml"), project.root, project.store_root, data=data)
    with pytest.raises(ArtifactError, match=r"content"):
        run.pin()


def test_what_the_pipeline_writes_below_a_source_is_no_new_data(project: Project) -> None:
    project.sources = ["data"]
    project.train(project.due().data)
    assert "nothing new" in project.rest()


def test_nor_is_it_of_a_run_that_a_person_starts(project: Project) -> None:
    project.sources = ["data"]
    project.write_recipe()
    project.train()
    run = Run(lambda: load_recipe(project.root / "recipes/mine.yaml"), project.root, project.store_root, ["0-2"])
    assert [file.name for file in run.pin()] == ["data/rows.jsonl"]
    run.close()


def test_rows_that_a_person_has_trained_on_before_any_look_are_known(project: Project) -> None:
    project.settings = {"min_new_rows": 5}
    project.write_recipe()
    project.write("rows.jsonl", range(20))
    project.train()
    project.write("rows.jsonl", range(21))
    assert project.rest() == "1 new training rows, retraining.min_new_rows is 5"


def test_a_try_has_a_number_of_its_own_though_earlier_ones_are_gone(project: Project) -> None:
    for number in range(2):
        due = project.due()
        project.start(due, "failed", f"r{number}", project.now)
        project.now += timedelta(hours=3)
    del project.started[0]  # a person has deleted that run
    due = project.due()
    assert (due.attempt, due.reason) == (3, "try 2 of 3: run r1 failed")


def test_what_was_refused_under_these_words_stays_so_though_others_were_tried_since(project: Project) -> None:
    first = project.due()
    book = Ledger(project.store_root, "mine")
    refused = Judged(
        data=first.data, outcome="refused", run="r1", validated="v", contract=first.contract, began_at=START, at=START
    )
    book.add(refused)
    book.add(refused.model_copy(update={"run": "r2", "contract": "other words"}))
    assert project.rest().startswith("run r1 has refused this data")


def test_a_failure_from_before_another_training_is_no_reason_to_try_again(project: Project) -> None:
    project.settings = {"min_new_rows": 10, "min_hours_between_runs": 24}
    first = project.due()
    for number in range(3):
        project.start(first, "failed", f"r{number}", datetime.now(UTC))
    more = project.write("more.jsonl", range(500, 520))
    second = project.due()
    project.train(second.data)
    project.start(second, "succeeded")
    more.unlink()
    assert project.rest() == "0 new training rows, retraining.min_new_rows is 10"
    project.write("yet_more.jsonl", range(900, 920))
    assert "retraining.min_hours_between_runs is 24" in project.rest()


def test_a_link_is_as_old_as_itself(project: Project) -> None:
    kept = project.root / "data/kept"
    kept.mkdir()
    for number in range(2):
        project.write(f"kept/{number}.jsonl", range(100 * number + 100, 100 * number + 110))
    time.sleep(1.2)
    project.settings = {"quiet_seconds": 1}
    project.now = datetime.now(UTC)
    assert project.due()
    (project.root / "data/linked.jsonl").symlink_to(kept / "0.jsonl")
    project.now = datetime.now(UTC)
    assert project.rest().startswith(
        "waits for files that are on their way: data/linked.jsonl is a link that was made 0 s"
    )


def test_a_look_does_not_begin_while_an_earlier_one_reads(project: Project) -> None:
    arguments = "recipes/mine.yaml", list[StartedRun](), datetime.now(UTC) + timedelta(hours=2)
    project.look()
    with lock_file(recipe_folder(project.store_root, "mine") / ".look.lock"):
        found = look(*arguments, is_patient=True)
        assert found == Rest("an earlier look still reads the data")
    assert isinstance(look(*arguments, is_patient=True), Due)


def test_a_file_that_can_be_no_data_does_not_hold_up_what_was_appended(project: Project) -> None:
    project.sources = ["data/*"]
    project.train(project.due().data)
    (project.root / "data/notes.txt").write_text("not data")
    project.write("rows.jsonl", range(60))
    found = project.due()
    assert "left out: data/notes.txt: a source's name must end in" in found.reason
