"""The sensor's runs, run: each stage for real on a tiny base."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from ft_pipeline.definitions import defs
from ft_pipeline.defs import automation
from ft_pipeline.recipe import RetrainingSection
from ft_pipeline.retraining.declared import Declared
from ft_pipeline.retraining.ledger import Ledger
from ft_pipeline_tests.user_project import EASY_EVALUATION, RECIPE, ROW, make_project

pytestmark = [pytest.mark.slow, pytest.mark.long]
SENSOR = automation.make_sensor(Declared("mine", "mine", RetrainingSection()))


@pytest.fixture
def root(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = make_project(tmp_path / "root", tiny_base, monkeypatch)
    words = RECIPE | {"retraining": {"replay_share": 0.5}, "evaluation": EASY_EVALUATION}
    (found / "recipes/mine.yaml").write_text(yaml.safe_dump(words))
    monkeypatch.setattr(automation, "now", lambda: datetime.now(UTC) + timedelta(hours=1))
    return found


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


def tick(instance: dg.DagsterInstance) -> Any:
    return SENSOR.evaluate_tick(dg.build_sensor_context(instance=instance))


def run(instance: dg.DagsterInstance, data: Any) -> dg.ExecuteInProcessResult:
    """The run that a tick has asked for."""
    (request,) = data.run_requests
    return defs.resolve_job_def("fine_tune").execute_in_process(
        run_config=request.run_config, tags=request.tags, instance=instance, raise_on_error=False
    )


def say(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> str:
    return "\n".join(entry.user_message for entry in instance.all_logs(result.run_id))


def test_each_content_is_trained_once_older_rows_are_replayed_and_bad_data_is_refused(
    root: Path, instance: dg.DagsterInstance
) -> None:
    first = run(instance, tick(instance))
    assert first.success, say(instance, first)
    assert f"nothing new: run {first.run_id} was trained on this data" in tick(instance).skip_message

    (root / "data/more.jsonl").write_text("".join(ROW % (number, number) for number in range(100, 120)))
    second = run(instance, tick(instance))
    said = say(instance, second)
    assert second.success, said
    assert "(retraining.replay_share 0.5)" in said
    assert f"nothing new: run {second.run_id} was trained on this data" in tick(instance).skip_message

    (root / "data/bad.jsonl").write_text("no JSON\n" * 30)
    third = run(instance, tick(instance))
    assert not third.success
    assert f"run {third.run_id} has refused this data" in tick(instance).skip_message

    (root / "data/bad.jsonl").unlink()
    assert f"nothing new: run {second.run_id} was trained on this data" in tick(instance).skip_message
    outcomes = [entry.outcome for entry in Ledger(root / "data/artifacts", "mine").read().judged]
    assert outcomes == ["kept", "kept", "refused"]
