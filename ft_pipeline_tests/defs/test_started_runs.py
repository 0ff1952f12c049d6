"""Runs of retraining as Dagster has them on record, and what people have done with them in its page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_pipeline.defs.started_runs import list_started, tags_of
from ft_pipeline.retraining.retrainer import Due


@dg.asset
def raw_dataset() -> None:
    """The first one."""


@dg.asset(deps=[raw_dataset])
def published_model() -> None:
    """The last one."""


_JOB = dg.Definitions(assets=[raw_dataset, published_model], jobs=[dg.define_asset_job("fine_tune")]).resolve_job_def(
    "fine_tune"
)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        yield instance


def _record(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, attempt: int = 1, **more: Any) -> dg.DagsterRun:
    tags = tags_of("mine", Due("d" * 24, "c", attempt, "new rows"))
    return instance.create_run_for_job(_JOB, status=status, tags=tags, **more)


def test_each_has_its_state_and_the_number_of_its_try(instance: dg.DagsterInstance) -> None:
    _record(instance, dg.DagsterRunStatus.FAILURE)
    _record(instance, dg.DagsterRunStatus.NOT_STARTED, 2)
    found = list_started(instance, "mine")
    assert [(run.state, run.attempt) for run in found] == [("failed", 1), ("unlaunched", 2)]
    assert list_started(instance, "other") == []


def test_a_part_that_a_person_has_done_again_is_no_run_on_the_data(instance: dg.DagsterInstance) -> None:
    chosen = frozenset({dg.AssetKey("raw_dataset")})
    _record(instance, dg.DagsterRunStatus.SUCCESS, asset_selection=chosen)
    assert list_started(instance, "mine") == []
    whole = _record(instance, dg.DagsterRunStatus.SUCCESS, asset_selection=chosen | {dg.AssetKey("published_model")})
    assert [run.id for run in list_started(instance, "mine")] == [whole.run_id]


@pytest.mark.parametrize("begun", [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED])
def test_a_run_that_a_person_has_ended_by_force_is_cancelled(
    instance: dg.DagsterInstance, begun: dg.DagsterRunStatus
) -> None:
    run = _record(instance, begun)
    # As Dagster's page does, in `_force_mark_as_canceled`.
    said = "This pipeline was forcibly marked as canceled from outside the execution context."
    instance.report_run_canceled(run, message=said)
    assert [found.state for found in list_started(instance, "mine")] == ["cancelled"]


def test_a_run_that_a_machine_has_ended_is_none_that_a_person_has(instance: dg.DagsterInstance) -> None:
    instance.report_run_canceled(_record(instance, dg.DagsterRunStatus.STARTED))
    assert [found.state for found in list_started(instance, "mine")] == ["failed"]
