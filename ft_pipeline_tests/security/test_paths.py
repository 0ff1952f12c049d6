"""Paths that data, a recipe or a run's configuration name stay where they may be."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_pipeline.containment import require_inside
from ft_pipeline.datasets.sources import find_sources
from ft_pipeline.definitions import defs
from ft_pipeline.errors import RecipeError, ResourceError, SourceError
from ft_pipeline.finetuning.lease import hold_device
from ft_pipeline.recipe import DatasetSection
from ft_pipeline_tests.user_project import ROW, make_project


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the project, with rows that are nobody's business."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "rows.jsonl").write_text(ROW % (1, 1))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    "source",
    [
        "../outside/rows.jsonl", "data/../../outside/*.jsonl", "{outside}/rows.jsonl", "{outside}", "data/link.jsonl",
        "data/*.jsonl", "data/folder", "data/folder/*.jsonl", "data/**/*.jsonl",
    ],
)  # fmt: skip
def test_no_source_leaves_the_allowed_roots(root: Path, outside: Path, source: str) -> None:
    (root / "data/link.jsonl").symlink_to(outside / "rows.jsonl")
    (root / "data/folder").symlink_to(outside)
    section = DatasetSection.model_validate({"sources": [source.format(outside=outside)]})
    with pytest.raises(SourceError, match=r"outside dataset\.allowed_roots|matches no file"):
        find_sources(section, root, root / "downloads")


def test_an_archive_is_no_source(root: Path) -> None:
    with tarfile.open(root / "data/rows.jsonl.tar.gz", "w:gz") as archive:
        row = tarfile.TarInfo("../../escaped.jsonl")
        row.size = len(ROW)
        archive.addfile(row, io.BytesIO(ROW.encode()))
    section = DatasetSection.model_validate({"sources": ["data/rows.jsonl.tar.gz"]})
    with pytest.raises(SourceError, match=r"rows\.jsonl\.tar\.gz"):
        find_sources(section, root, root / "downloads")
    assert not (root.parent / "escaped.jsonl").exists()


@pytest.mark.parametrize(
    "pipeline",
    [
        {"recipe": "../outside/mine.yaml"},
        {"recipe": "recipes/link.yaml"},
        {"artifacts": "../outside/store"},
        {"artifacts": "/srv/store"},
        {"artifacts": "data/link"},
    ],
    ids=str,
)
def test_what_is_typed_into_the_launchpad_stays_in_the_project(
    tmp_path: Path, tiny_base: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, pipeline: dict[str, Any]
) -> None:
    root = make_project(tmp_path / "project", tiny_base, monkeypatch)
    (outside / "mine.yaml").write_text((root / "recipes/mine.yaml").read_text())
    (root / "recipes/link.yaml").symlink_to(outside / "mine.yaml")
    (root / "data/link").symlink_to(outside)
    before = sorted(outside.iterdir())
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def("fine_tune").execute_in_process(
            run_config={"resources": {"pipeline": {"config": pipeline}}},
            asset_selection=[dg.AssetKey("raw_dataset")],
            instance=instance,
            raise_on_error=False,
        )
    (failure,) = result.get_step_failure_events()
    assert f"pipeline.{next(iter(pipeline))} must lie in {root}" in str(failure.event_specific_data)
    assert sorted(outside.iterdir()) == before


def test_a_name_that_begins_like_the_project_is_not_in_it(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    with pytest.raises(RecipeError, match=r"pipeline\.recipe must lie in"):
        require_inside(tmp_path / "project-of-another/a.yaml", [tmp_path / "project"], "pipeline.recipe")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's link")
def test_another_users_link_is_no_folder_of_locks(tmp_path: Path, outside: Path) -> None:
    link = tmp_path / "ft_pipeline"
    link.symlink_to(outside)
    os.chown(link, 12345, 12345, follow_symlinks=False)
    with (
        pytest.raises(ResourceError, match=r"must not be another user's link; .* leads to"),
        hold_device("cpu", lock_dir=link, timeout_seconds=0, holder="us", tell=lambda _: None),
    ):
        pass
    assert [path.name for path in outside.iterdir()] == ["rows.jsonl"]
