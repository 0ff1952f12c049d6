"""New objects in a bucket start a run as new files do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from ft_pipeline.recipe_file import load_recipe
from ft_pipeline.retraining.decision import Rest
from ft_pipeline.retraining.retrainer import Due, Retrainer
from ft_pipeline.run import Run
from ft_pipeline_tests.s3_server import QUIET, Bucket, bucket, moto_url
from ft_pipeline_tests.user_project import RECIPE, ROW, make_project

__all__ = ["bucket", "moto_url"]
pytestmark = QUIET


def rows(first: int) -> bytes:
    return "".join(ROW % (number, number) for number in range(first, first + 10)).encode()


def look(root: Path, later: timedelta) -> Due | Rest:
    recipe = load_recipe(root / "recipes/mine.yaml")
    return Retrainer(recipe, root, root / "data/artifacts").look([], datetime.now(UTC) + later)


def test_objects_start_a_run_when_they_have_been_there_for_a_while_once_for_each_content(
    bucket: Bucket, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_project(tmp_path / "root", tiny_base, monkeypatch)
    dataset = RECIPE["dataset"] | {"sources": ["s3://rows/new"], "allowed_roots": ["s3://rows"]}
    (root / "recipes/mine.yaml").write_text(yaml.safe_dump(RECIPE | {"dataset": dataset}))
    hour = timedelta(hours=1)
    bucket.put("new/a.jsonl", rows(0))
    arriving = look(root, timedelta())
    assert isinstance(arriving, Rest)
    assert arriving.reason.startswith("no file is quiet and whole yet: s3://rows/new/a.jsonl changed")

    due = look(root, hour)
    assert isinstance(due, Due)
    run = Run(lambda: load_recipe(root / "recipes/mine.yaml"), root, root / "data/artifacts", ["0-1"], due.data)
    run.pin()
    run.judge("published", "v")
    run.close()
    bucket.put("new/a.jsonl", rows(0))  # the same once more
    again = look(root, hour)
    assert isinstance(again, Rest)
    assert "nothing new: run 0-1 was trained on this data" in again.reason

    bucket.put("new/b.jsonl", rows(100))
    more = look(root, hour)
    assert isinstance(more, Due)
    assert more.reason == "10 new rows in 2 files"
