from __future__ import annotations

import re
from pathlib import Path

import dagster as dg
import pytest
import yaml

from ft_pipeline.definitions import defs
from ft_pipeline.defs import automation
from ft_pipeline.retraining.declared import declare_retraining
from ft_pipeline_tests.user_project import RECIPE, make_project


def test_sensor_and_schedule_are_there_and_off_until_turned_on() -> None:
    (sensor,) = automation.sensors
    (schedule,) = automation.schedules
    assert (sensor.name, sensor.default_status) == ("demo_on_new_data", dg.DefaultSensorStatus.STOPPED)
    assert (schedule.name, schedule.default_status) == ("demo_on_schedule", dg.DefaultScheduleStatus.STOPPED)
    assert sensor in list(defs.sensors or [])
    assert schedule in list(defs.schedules or [])


@pytest.fixture
def root(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_project(tmp_path / "root", tiny_base, monkeypatch)


def test_every_recipe_with_the_section_has_its_own(root: Path) -> None:
    for name, words in {"other-one": {"retraining": {"cron": "5 4 * * *"}}, "third": {}}.items():
        (root / f"recipes/{name}.yaml").write_text(yaml.safe_dump({**RECIPE, "name": name, **words}))
    declared = {one.label: one for one in declare_retraining()}
    assert set(declared) == {"mine", "other_one"}
    schedule = automation.make_schedule(declared["other_one"])
    assert (schedule.name, schedule.cron_schedule) == ("other_one_on_schedule", "5 4 * * *")


def test_a_recipe_that_does_not_load_does_not_take_the_others_down_and_its_look_says_what_is_wrong(root: Path) -> None:
    (root / "recipes/mine.yaml").write_text("name: mine\nbase: x\n")
    (declared,) = declare_retraining()
    sensor = automation.make_sensor(declared)
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(Exception, match="there is no such field") as raised:
        sensor.evaluate_tick(dg.build_sensor_context(instance=instance))
    assert "mine.yaml" in str(raised.value)


def test_a_run_says_on_which_data_and_why_it_was_started(root: Path) -> None:
    (root / "recipes/mine.yaml").write_text(yaml.safe_dump({**RECIPE, "retraining": {"quiet_seconds": 0}}))
    (declared,) = declare_retraining()
    with dg.DagsterInstance.ephemeral() as instance:
        data = automation.make_sensor(declared).evaluate_tick(dg.build_sensor_context(instance=instance))
    (request,) = data.run_requests or ()
    config = request.run_config["resources"]["pipeline"]["config"]
    assert config == {"data": request.tags["ft_pipeline/data"]}, "the environment names the recipe"
    assert re.fullmatch(rf"mine:{config['data']}:[0-9a-f]+:1", request.run_key or "")
    assert request.tags["ft_pipeline/reason"] == "20 new rows in 1 file"
