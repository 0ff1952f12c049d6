"""What starts runs: the job, and for each recipe that can be retrained a sensor and a schedule, off until turned on."""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import dagster as dg

from ft_pipeline import environment
from ft_pipeline.defs.started_runs import RECIPE_TAG, list_started, tags_of
from ft_pipeline.retraining.decision import Rest
from ft_pipeline.retraining.declared import Declared, declare_retraining, look

LOOK_SECONDS = 30
Answer = dg.RunRequest | dg.SkipReason
Made = TypeVar("Made")
_log = logging.getLogger(__name__)

fine_tune = dg.define_asset_job(
    "fine_tune",
    selection=dg.AssetSelection.all(),
    description="The whole graph: from the files in the recipe's sources to a published model.",
)


def make_sensor(declared: Declared) -> dg.SensorDefinition:
    """Starts a run when new data has come and is at rest."""

    @dg.sensor(
        name=f"{declared.label}_on_new_data",
        job=fine_tune,
        minimum_interval_seconds=LOOK_SECONDS,
        description=f"Trains {declared.recipe} when its sources hold new rows that are at rest, once a content.",
        tags={RECIPE_TAG: declared.recipe},
    )
    def look_for_new_data(context: dg.SensorEvaluationContext) -> Answer:
        return _answer(context, declared.recipe, is_patient=True)

    return look_for_new_data


def make_schedule(declared: Declared) -> dg.ScheduleDefinition:
    """Starts a run at set times, if there is new data."""
    settings = declared.settings

    @dg.schedule(
        name=f"{declared.label}_on_schedule",
        job=fine_tune,
        cron_schedule=settings.cron,
        execution_timezone=settings.timezone,
        description=f"Trains {declared.recipe} at the times of its retraining.cron, if its sources hold new rows.",
        tags={RECIPE_TAG: declared.recipe},
    )
    def look_at_set_times(context: dg.ScheduleEvaluationContext) -> Answer:
        return _answer(context, declared.recipe, is_patient=False)

    return look_at_set_times


def now() -> datetime:
    """This moment; the simulated months of the tests put another clock here."""
    return datetime.now(UTC)


def _answer(
    context: dg.SensorEvaluationContext | dg.ScheduleEvaluationContext, recipe: str, *, is_patient: bool
) -> Answer:
    found = look(recipe, list_started(context.instance, recipe), now(), is_patient=is_patient)
    if isinstance(found, Rest):
        return dg.SkipReason(found.reason)
    context.log.info(found.reason)
    # The environment's recipe may lie outside the project, which run config may not name.
    chosen = {} if recipe == environment.recipe_name() else {"recipe": recipe}
    return dg.RunRequest(
        run_key=f"{recipe}:{found.data}:{found.contract}:{found.attempt}",
        run_config={"resources": {"pipeline": {"config": {**chosen, "data": found.data}}}},
        tags=tags_of(recipe, found),
    )


def make_all(make: Callable[[Declared], Made], declared: Sequence[Declared]) -> list[Made]:
    """What is made for each recipe; one for which Dagster takes nothing costs its own alone."""
    made = []
    for one in declared:
        try:
            made.append(make(one))
        except dg.DagsterError as err:
            _log.warning("recipe %s has no %s: %s", one.recipe, make.__name__.removeprefix("make_"), err)
    return made


_declared = declare_retraining()
sensors = make_all(make_sensor, _declared)
schedules = make_all(make_schedule, _declared)
