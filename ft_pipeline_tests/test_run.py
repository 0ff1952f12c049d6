from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import ArtifactError, BaseModelError
from ft_pipeline.evaluation.request import Opponents
from ft_pipeline.lineage import plain_fingerprint
from ft_pipeline.recipe import Recipe
from ft_pipeline.run import Run
from ft_pipeline.run_record import RunFolder


class Project:
    """A user's folder, whose recipe can be edited at any time."""

    def __init__(self, root: Path, base: Path) -> None:
        self.root = root
        self.recipe: dict[str, Any] = {
            "name": "mine",
            "base_model": {"source": "base"},
            "dataset": {"sources": ["data/*.jsonl"], "max_row_tokens": 128},
        }
        (root / "data").mkdir()
        (root / "data/rows.jsonl").write_text("{}\n")
        shutil.copytree(base, root / "base")

    def run(self, *ids: str) -> Run:
        """A process of the run `ids[0]`, which continues the others."""
        return Run(lambda: Recipe.model_validate(self.recipe), self.root, self.root / "store", ids)


@pytest.fixture
def project_of_user(tmp_path: Path, tiny_base: Path) -> Project:
    return Project(tmp_path, tiny_base)


def test_what_is_edited_during_a_run_belongs_to_the_next_one(project_of_user: Project) -> None:
    began = project_of_user.run("one").lineage.trained_adapter
    (project_of_user.root / "data/more.jsonl").write_text("{}\n{}\n")
    project_of_user.recipe["training"] = {"epochs": 2}
    assert project_of_user.run("one").lineage.trained_adapter == began
    later = project_of_user.run("two")
    assert later.lineage.raw_dataset != project_of_user.run("one").lineage.raw_dataset
    assert later.recipe.training.epochs == 2


def test_a_run_that_makes_the_raw_data_set_begins_anew(project_of_user: Project) -> None:
    first = project_of_user.run("one").lineage.raw_dataset
    (project_of_user.root / "data/more.jsonl").write_text("{}\n{}\n")
    retry = project_of_user.run("two", "one")
    assert retry.lineage.raw_dataset == first
    retry.pin()
    assert retry.lineage.raw_dataset != first
    assert project_of_user.run("three", "two", "one").lineage.raw_dataset == retry.lineage.raw_dataset


def test_a_retry_of_a_retry_finds_what_the_first_run_began_with(project_of_user: Project) -> None:
    first = project_of_user.run("one").lineage.raw_dataset
    (project_of_user.root / "data/rows.jsonl").write_text("{}\n{}\n")
    chain = ["four", "three", "two", "one"]
    assert project_of_user.run(*chain).lineage.raw_dataset == first


def test_a_base_that_changes_during_a_run_stops_it_and_a_touched_one_does_not(project_of_user: Project) -> None:
    project_of_user.run("one").pin()
    config = project_of_user.root / "base/config.json"
    os.utime(config, (1, 1))
    assert project_of_user.run("one").base.path == project_of_user.root / "base"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(BaseModelError, match="must stay as it is while a run goes on"):
        _ = project_of_user.run("one").base


def test_rows_longer_than_the_context_of_the_base_are_refused(project_of_user: Project) -> None:
    project_of_user.recipe["dataset"]["max_row_tokens"] = 1_000_000
    with pytest.raises(BaseModelError, match=r"must be at most the context of the base, got 1000000: base has \d+"):
        project_of_user.run("one").pin()


def test_force_gives_an_artifact_and_all_that_comes_after_it_new_fingerprints(project_of_user: Project) -> None:
    run = project_of_user.run("one")
    before = run.lineage
    renewed = run.renew(before.trained_adapter)
    assert run.lineage.trained_adapter == renewed != before.trained_adapter
    assert run.lineage.validated_dataset == before.validated_dataset
    assert run.lineage.gguf_model != before.gguf_model
    assert plain_fingerprint(renewed) == before.trained_adapter.fingerprint


def test_later_runs_take_what_was_built_by_force_once_it_is_there(project_of_user: Project) -> None:
    run = project_of_user.run("one")
    old = run.lineage.trained_adapter
    renewed = run.renew(old)
    assert project_of_user.run("two").lineage.trained_adapter == old, "it was not built yet"
    run.settle(renewed)
    assert project_of_user.run("three").lineage.trained_adapter == renewed
    assert project_of_user.run("two").lineage.trained_adapter == old, "that run began before"
    assert project_of_user.run("four").renew(renewed) not in (old, renewed)


def test_a_run_that_continues_another_one_says_so_and_needs_nothing_yet(project_of_user: Project) -> None:
    first = project_of_user.run("one")
    first.need("raw_dataset", "abc")
    retry = project_of_user.run("two", "one")
    assert (first.continues, retry.continues) == (None, "one")
    records = {run.id: run.record for run in RunFolder(project_of_user.root / "store").list_runs()}
    assert records["two"].artifacts == ()
    assert records["two"].began_at > records["one"].began_at


def test_a_record_that_does_not_read_stops_who_continues_it(project_of_user: Project) -> None:
    project_of_user.run("one").pin()
    path = project_of_user.root / "store/_runs/one.json"
    path.write_text(path.read_text().replace('"began_at"', '"begun_at"'))
    with pytest.raises(ArtifactError, match="Start a new run instead of continuing that one"):
        _ = project_of_user.run("two", "one").lineage


def test_what_a_challenger_met_stays_on_record(project_of_user: Project) -> None:
    met = Opponents(champion="a" * 24, best="b" * 24)
    project_of_user.run("one").meet(met)
    assert project_of_user.run("one").opponents == met


def test_looking_writes_nothing_down(project_of_user: Project) -> None:
    run = project_of_user.run()
    run.need("raw_dataset", run.lineage.raw_dataset.fingerprint)
    assert not (project_of_user.root / "store").exists()


def test_a_run_is_live_until_its_process_lets_go(project_of_user: Project) -> None:
    run = project_of_user.run("one")
    run.need("raw_dataset", run.lineage.raw_dataset.fingerprint)
    folder = RunFolder(project_of_user.root / "store")
    (live,) = folder.list_runs()
    assert live.is_live
    assert live.record.artifacts == (("raw_dataset", run.lineage.raw_dataset.fingerprint),)
    run.close()
    assert not next(folder.list_runs()).is_live


def test_the_id_of_a_run_cannot_leave_the_folder(project_of_user: Project) -> None:
    with pytest.raises(ArtifactError, match="letters, digits and dashes"):
        project_of_user.run("../up").pin()


def test_a_run_comes_after_all_before_it_however_the_clock_was_set(project_of_user: Project) -> None:
    project_of_user.run("one").pin()
    folder = RunFolder(project_of_user.root / "store")
    record = folder.read("one")
    assert record
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    folder.write("one", record.model_copy(update={"began_at": tomorrow}))
    (project_of_user.root / "store/_runs/damaged.json").write_text("{")
    project_of_user.run("two").pin()
    project_of_user.run("three", "one").base  # noqa: B018
    assert [run.id for run in folder.list_runs()] == ["three", "two", "one"]
