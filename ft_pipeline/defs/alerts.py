"""The sensor that tells people of runs. What Dagster keeps of a run goes to `alerts/`, which decides and tells."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from ft_pipeline import environment
from ft_pipeline.alerts.alert import Fault
from ft_pipeline.alerts.endings import EndedRun, Ending, find_alert, find_recipe_name
from ft_pipeline.alerts.outbox import RunEnd, list_receivers, work_off
from ft_pipeline.alerts.settings import SMTP, WEBHOOK, AlertSettings
from ft_pipeline.errors import AlertError

# Runs of one ending that a tick looks at.
_AT_ONCE = 25
_TOLD_TAG = "ft_pipeline/alerted."
_ENDINGS: dict[dg.DagsterEventType, Ending] = {
    dg.DagsterEventType.RUN_FAILURE: "failed",
    dg.DagsterEventType.RUN_CANCELED: "canceled",
    dg.DagsterEventType.RUN_SUCCESS: "succeeded",
}


@dg.sensor(
    default_status=dg.DefaultSensorStatus.STOPPED,
    minimum_interval_seconds=30,
    description="Tells people of failed runs and of new champions, by webhook or e-mail (docs/alerts.md).",
)
def alerts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Tell of the runs that have ended since the last tick.

    Dagster's own run status sensors go on to the next run when telling fails, and the alert is lost; this one fails,
    and tries again at its next tick. The first tick only notes where it begins.
    """
    settings = environment.alert_settings()
    if not settings.has_receiver:
        return dg.SkipReason(f"no receiver is set: {WEBHOOK} or {SMTP} names one")
    instance, seen = context.instance, json.loads(context.cursor or "{}")
    ends: list[RunEnd] = []
    for event, ending in _ENDINGS.items():
        cursor = seen.get(event.value)
        found = instance.fetch_run_status_changes(event, _AT_ONCE if cursor else 1, cursor, ascending=bool(cursor))
        if cursor:
            ends += _read_ends(instance, found.records, ending, settings)
        seen[event.value] = found.cursor
    outcome = work_off(
        ends,
        list_receivers(settings),
        lambda end, receiver: instance.add_run_tags(end.run, {_TOLD_TAG + receiver: end.run}),
        datetime.now(UTC),
    )
    for sentence in outcome.given_up:
        context.log.error(sentence)
    if outcome.waiting:
        raise AlertError("\n".join(outcome.waiting))
    context.update_cursor(json.dumps(seen))
    return dg.SkipReason("\n".join([*outcome.delivered, *outcome.given_up]) or "no run has ended that is to be told of")


def _read_ends(instance: dg.DagsterInstance, records: Any, ending: Ending, settings: AlertSettings) -> Iterator[RunEnd]:
    for record in records:
        run = instance.get_run_by_id(record.event_log_entry.run_id)
        if run is None:  # deleted meanwhile
            continue
        alert = find_alert(_read_run(instance, run, ending, record.event_log_entry), settings.kinds)
        if alert:
            # A run that is executed again takes its tags along, so a mark names its run.
            told = {tag.removeprefix(_TOLD_TAG) for tag, value in run.tags.items() if value == run.run_id}
            yield RunEnd(run.run_id, datetime.fromtimestamp(record.timestamp, UTC), alert, frozenset(told))


def _read_run(instance: dg.DagsterInstance, run: dg.DagsterRun, ending: Ending, last: dg.EventLogEntry) -> EndedRun:
    faults, made = [], {}
    wanted = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.ASSET_MATERIALIZATION}
    for entry in instance.all_logs(run.run_id, of_type=wanted):
        event = entry.dagster_event
        if event and event.is_step_failure:
            error = event.step_failure_data.error
            error = error.cause or error if error else None  # what the asset raised, not Dagster's words about it
            faults.append(Fault(event.step_key or "", error.message if error else event.message or ""))
        elif event and event.asset_key:
            metadata = event.step_materialization_data.materialization.metadata
            made[event.asset_key.path[-1]] = {key: getattr(value, "value", None) for key, value in metadata.items()}
    if not faults:
        faults.append(Fault("", (last.dagster_event.message if last.dagster_event else None) or last.user_message))
    recipe = find_recipe_name(run.run_config, environment.recipe_name())
    return EndedRun(run.run_id, recipe, ending, run.tags, faults, made)
