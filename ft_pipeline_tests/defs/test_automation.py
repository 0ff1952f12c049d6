from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ft_pipeline.definitions import defs
from ft_pipeline.defs import automation
from ft_pipeline.recipe_file import find_recipe
from ft_pipeline.recipe_retraining import RetrainingSection
from ft_pipeline.retraining.declared import Declared, declare_retraining
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


@pytest.mark.parametrize(
    "named", ["mine", "recipes/mine.yaml", "recipes/../recipes/mine.yaml", "{root}/recipes/mine.yaml"]
)
def test_a_recipe_has_one_sensor_however_the_environment_names_it(
    root: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "recipes/mine.yaml").write_text(yaml.safe_dump({**RECIPE, "retraining": {}}))
    monkeypatch.setenv("FT_PIPELINE_RECIPE", named.format(root=root))
    assert [one.label for one in declare_retraining()] == ["mine"]


@pytest.mark.parametrize("file", ["a.yaml.yaml", "b.yml.yaml", "ä ö.yaml"])
def test_a_recipe_is_found_by_the_name_that_its_sensor_has(root: Path, file: str) -> None:
    path = root / "recipes" / file
    path.write_text(yaml.safe_dump({**RECIPE, "name": "other", "retraining": {}}))
    _, other = declare_retraining()
    assert find_recipe(other.recipe, root) == path


@pytest.mark.parametrize("file", [".yaml", "._other.yaml", ".hidden.yaml"])
def test_a_hidden_file_is_no_recipe(root: Path, file: str) -> None:
    (root / "recipes" / file).write_text(yaml.safe_dump({**RECIPE, "name": "other", "retraining": {}}))
    assert [one.label for one in declare_retraining()] == ["mine"]


@pytest.mark.parametrize("key", ["retraining", "'retraining'", '"retraining"'])
def test_a_section_is_seen_however_its_name_is_quoted(root: Path, key: str) -> None:
    (root / "recipes/other.yaml").write_text(yaml.safe_dump({**RECIPE, "name": "other"}) + f"{key}: {{}}\n")
    assert [one.label for one in declare_retraining()] == ["mine", "other"]


def tick(declared: Declared) -> Any:
    with dg.DagsterInstance.ephemeral() as instance:
        return automation.make_sensor(declared).evaluate_tick(dg.build_sensor_context(instance=instance))


@pytest.mark.parametrize(("environment", "other"), [("mine", "recipes/other.yaml"), ("other.yaml", "other.yaml")])
def test_two_recipes_of_one_name_are_not_retrained_and_are_both_named(
    root: Path, environment: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("recipes/mine.yaml", other):
        (root / file).write_text(yaml.safe_dump({**RECIPE, "retraining": {}}))
    monkeypatch.setenv("FT_PIPELINE_RECIPE", environment)
    declared = declare_retraining()
    assert len(declared) == 2
    for one in declared:
        with pytest.raises(Exception, match=r"'mine' is that of .* Give all but one of them another name") as raised:
            tick(one)
        assert f"{root}/recipes/mine.yaml" in str(raised.value)
        assert f"{root}/{other}" in str(raised.value)


def test_a_run_of_one_of_two_recipes_of_one_name_is_refused(root: Path) -> None:
    (root / "recipes/other.yaml").write_text(yaml.safe_dump(RECIPE))
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def("fine_tune").execute_in_process(
            asset_selection=[dg.AssetKey("raw_dataset")], instance=instance, raise_on_error=False
        )
    (failure,) = result.get_step_failure_events()
    assert "'mine' is that of" in str(failure.event_specific_data)
    assert not (root / "data/artifacts/raw_dataset").exists()


@pytest.mark.usefixtures("root")
def test_a_recipe_of_which_dagster_takes_nothing_costs_its_own_alone(caplog: pytest.LogCaptureFixture) -> None:
    (good,) = declare_retraining()
    declared = [replace(good, recipe="bad", label="no name for Dagster"), good]
    assert [sensor.name for sensor in automation.make_all(automation.make_sensor, declared)] == ["mine_on_new_data"]
    assert [one.name for one in automation.make_all(automation.make_schedule, declared)] == ["mine_on_schedule"]
    assert "recipe bad has no sensor: " in caplog.text


@pytest.mark.parametrize("words", ["description: 2026-02-30", "description: &a [*a]", "description: !!bool abc"])
def test_a_recipe_that_yaml_makes_no_sense_of_does_not_take_the_others_down(root: Path, words: str) -> None:
    (root / "recipes/other.yaml").write_text(f"retraining: {{}}\n{words}\n")
    assert [one.label for one in declare_retraining()] == ["mine", "other"]


NUMBER = (st.integers(0, 7) | st.integers(0, 60)).map(str)
PART = st.one_of(
    *(st.builds(form.format, NUMBER, NUMBER, NUMBER) for form in ("*", "*/{}", "{}", "{}/{}", "{}-{}", "{}-{}/{}")),
    st.sampled_from(["jan", "mar-Dec", "mon", "Mon-fri", "sun-sat/2", "L", "1W", "1#2", "R", "?"]),
)


@settings(max_examples=200)
@given(st.tuples(*[PART | st.just("*")] * 5).map(" ".join))
def test_a_cron_expression_that_a_recipe_may_have_is_one_for_dagster(cron: str) -> None:
    try:
        section = RetrainingSection(cron=cron)
    except ValidationError:  # a day that never comes, or too long
        return
    assert automation.make_schedule(Declared("mine", "mine", section)).cron_schedule == cron


def test_a_recipe_that_does_not_load_does_not_take_the_others_down_and_its_look_says_what_is_wrong(root: Path) -> None:
    (root / "recipes/mine.yaml").write_text("name: mine\nbase: x\n")
    (declared,) = declare_retraining()
    with pytest.raises(Exception, match="there is no such field") as raised:
        tick(declared)
    assert "mine.yaml" in str(raised.value)


def test_a_run_says_on_which_data_and_why_it_was_started(root: Path) -> None:
    (root / "recipes/mine.yaml").write_text(yaml.safe_dump({**RECIPE, "retraining": {"quiet_seconds": 0}}))
    (declared,) = declare_retraining()
    (request,) = tick(declared).run_requests
    config = request.run_config["resources"]["pipeline"]["config"]
    assert config == {"data": request.tags["ft_pipeline/data"]}, "the environment names the recipe"
    assert re.fullmatch(rf"mine:{config['data']}:[0-9a-f]+:1", request.run_key or "")
    assert request.tags["ft_pipeline/reason"] == "20 new rows in 1 file"
