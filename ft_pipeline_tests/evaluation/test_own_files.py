from __future__ import annotations

import math
from pathlib import Path

import pytest

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.own_files import find_metric_files, find_task_files, find_task_folder
from ft_pipeline.evaluation.request import OwnFile
from ft_pipeline.evaluation.user_metric import user_metric_name
from ft_pipeline.evaluation.user_metrics import UserMetrics
from ft_pipeline.fingerprint import hash_file
from ft_pipeline.recipe_evaluation import EvaluationSection, HarnessSection
from ft_pipeline_tests.evaluation.scored import make_scored

FULL = "def score(prediction, reference, messages):\n    return prediction == reference\n"


def write(path: Path, text: str) -> OwnFile:
    path.write_text(text, encoding="utf-8")
    return OwnFile(path=path, sha256=hash_file(path))


def test_metrics_are_found_below_the_project_with_their_hashes(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    expected = write(tmp_path / "metrics" / "mine.py", FULL)
    assert find_metric_files(EvaluationSection(metric_files=("metrics/mine.py",)), tmp_path) == (expected,)


@pytest.mark.parametrize("name", ["../outside.py", "link.py", "/etc/hostname"])
def test_a_file_outside_the_project_is_refused_also_through_a_link(tmp_path: Path, name: str) -> None:
    root = tmp_path / "project"
    root.mkdir()
    write(tmp_path / "outside.py", FULL)
    (root / "link.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(EvaluationError, match="must lie in the project's folder"):
        find_metric_files(EvaluationSection(metric_files=(name,)), root)


@pytest.mark.parametrize("name", ["absent.py", "folder.py", "notes.txt"])
def test_what_is_no_python_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(EvaluationError, match=rf"must name Python files; .*{name} is none"):
        find_metric_files(EvaluationSection(metric_files=(name,)), tmp_path)


def test_the_users_tasks_are_a_folder_below_the_project(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    assert find_task_folder(HarnessSection(task_folder="tasks"), tmp_path) == tmp_path / "tasks"
    assert find_task_folder(HarnessSection(), tmp_path) is None
    with pytest.raises(EvaluationError, match="must be a folder"):
        find_task_folder(HarnessSection(task_folder="absent"), tmp_path)


def test_rows_get_the_scores_of_every_metric(tmp_path: Path) -> None:
    own = UserMetrics([write(tmp_path / "same.py", FULL)])
    rows = own.score([make_scored(True), make_scored(False)], "challenger Q4_K_M")
    assert [row.user_scores for row in rows] == [{"same": 1.0}, {"same": 0.0}]
    assert own.notes == []


def test_a_metric_that_raises_is_told_with_its_line_and_costs_only_its_own_value(tmp_path: Path) -> None:
    broken = "def score(prediction, reference, messages):\n    return 1 / (prediction == reference)\n"
    own = UserMetrics([write(tmp_path / "broken.py", broken), write(tmp_path / "same.py", FULL)])
    rows = own.score([make_scored(True), make_scored(False)], "challenger Q4_K_M")
    assert [row.user_scores for row in rows] == [{"broken": 1.0, "same": 1.0}, {"same": 0.0}]
    (note,) = own.notes
    assert "no value for 1 of 2 answers of challenger Q4_K_M" in note
    assert "broken.py:2: ZeroDivisionError" in note


def test_a_metric_that_does_not_load_has_weight_nowhere(tmp_path: Path) -> None:
    own = UserMetrics([write(tmp_path / "broken.py", "import nothing_like_it\n")])
    assert "The metric broken says nothing" in own.notes[0]
    assert "broken.py:1: ModuleNotFoundError" in own.notes[0]
    assert own.metrics["broken"].weight(make_scored(True)) == 0


def test_a_metric_that_failed_on_one_row_is_no_number_for_it_may_fail_on_the_bad_ones(tmp_path: Path) -> None:
    broken = "def score(prediction, reference, messages):\n    return 1 / (prediction == reference)\n"
    own = UserMetrics([write(tmp_path / "broken.py", broken)])
    rows = own.score([make_scored(True), make_scored(False)], "challenger Q4_K_M")
    assert math.isnan(sum(own.metrics["broken"].part(row) for row in rows))


@pytest.mark.parametrize("name", ["publish", "exact", "size_bytes", "general", "exact_match"])
def test_a_metric_cannot_be_called_as_another_figure(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is taken"):
        user_metric_name(Path(f"{name}.py"))


def test_tasks_are_pinned_with_their_hashes(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    expected = write(tmp_path / "tasks" / "mine.yaml", "task: mine\n")
    assert find_task_files(HarnessSection(task_folder="tasks"), tmp_path) == (expected,)
    assert find_task_files(HarnessSection(), tmp_path) == ()


def test_a_metric_that_was_edited_since_the_run_began_is_not_used(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.py", FULL)
    file.path.write_text(FULL + "\n")
    assert "was edited since" in UserMetrics([file]).notes[0]
    file.path.unlink()
    assert "cannot be read" in UserMetrics([file]).notes[0]
