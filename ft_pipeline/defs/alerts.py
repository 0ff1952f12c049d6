"""The sensor that tells people of runs. What Dagster keeps of a run goes to `alerts/`, which decides and tells."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from ft_pipeline import environment
from ft_pipeline.alerts.alert import Fault
from ft_pipeline.alerts.endings import BlockingCheck, EndedRun, Ending, find_alert
from ft_pipeline.alerts.outbox import RunEnd, list_receivers, work_off
from ft_pipeline.alerts.settings import SMTP, WEBHOOK, AlertSettings
from ft_pipeline.containment import read_choice
from ft_pipeline.errors import AlertError

# Runs of one ending that a tick looks at.
_AT_ONCE = 25
# Each with a receiver's name at its end.
_TOLD_TAG, _GIVEN_UP_TAG = "ft_pipeline/alerted.", "ft_pipeline/alert_given_up."
_TRIED_TAG = "ft_pipeline/alert_tried."
_ENDINGS: dict[dg.DagsterEventType, Ending] = {
    dg.DagsterEventType.RUN_FAILURE: "failed",
    dg.DagsterEventType.RUN_CANCELED: "canceled",
    dg.DagsterEventType.RUN_SUCCESS: "succeeded",
}
_READ = {
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
}
_BLOCKED = "DagsterAssetCheckFailedError"


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
    outcome = work_off(ends, list_receivers(settings), _RunTags(instance), datetime.now(UTC))
    for sentence in outcome.given_up:
        context.log.error(sentence)
    for sentence in outcome.warnings:
        context.log.warning(sentence)
    if outcome.waiting:
        raise AlertError("\n".join([*outcome.waiting, *outcome.warnings]))
    if not outcome.left:
        context.update_cursor(json.dumps(seen))
    said = [*outcome.delivered, *outcome.warnings, *outcome.given_up, *outcome.left]
    return dg.SkipReason("\n".join(said) or "no run has ended that is to be told of")


class _RunTags:
    """What became of a run's alert, kept with the run: the cursor of a tick that fails is not kept.

    A run that is executed again takes its tags along, so each names its run.
    """

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance

    def told(self, run: str, receiver: str) -> None:
        self._instance.add_run_tags(run, {_TOLD_TAG + receiver: run})

    def tried(self, run: str, receiver: str, at: datetime) -> None:
        self._instance.add_run_tags(run, {_TRIED_TAG + receiver: f"{run} {at.isoformat()}"})

    def given_up(self, run: str, receiver: str) -> None:
        self._instance.add_run_tags(run, {_GIVEN_UP_TAG + receiver: run})


def _read_ends(instance: dg.DagsterInstance, records: Any, ending: Ending, settings: AlertSettings) -> Iterator[RunEnd]:
    for record in records:
        run = instance.get_run_by_id(record.event_log_entry.run_id)
        if run is None:  # deleted meanwhile
            continue
        alert = find_alert(_read_run(instance, run, ending, record.event_log_entry), settings.kinds)
        if alert:
            own = {tag: value.removeprefix(run.run_id) for tag, value in run.tags.items() if run.run_id in value}
            done = (*_find_tagged(own, _TOLD_TAG), *_find_tagged(own, _GIVEN_UP_TAG))
            tried = {name: datetime.fromisoformat(at.strip()) for name, at in _find_tagged(own, _TRIED_TAG).items()}
            yield RunEnd(run.run_id, alert, frozenset(done), tried)


def _find_tagged(tags: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {tag.removeprefix(prefix): value for tag, value in tags.items() if tag.startswith(prefix)}


def _read_run(instance: dg.DagsterInstance, run: dg.DagsterRun, ending: Ending, last: dg.EventLogEntry) -> EndedRun:
    faults: list[Fault] = []
    checks: list[BlockingCheck] = []
    made: dict[str, dict[str, Any]] = {}
    for entry in instance.all_logs(run.run_id, of_type=_READ):
        event = entry.dagster_event
        if event is None:
            continue
        if event.is_step_failure:
            faults += _read_fault(event)
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            found = event.asset_check_evaluation_data
            if found.blocking and not found.passed and found.severity == dg.AssetCheckSeverity.ERROR:
                figures = _read_values(found.metadata, "value", "limit")
                asset, said = found.asset_key.path[-1], found.description or "failed"
                checks.append(BlockingCheck(asset, found.check_name, said, **figures))
        elif event.asset_key:
            metadata = event.step_materialization_data.materialization.metadata
            made[event.asset_key.path[-1]] = _read_values(metadata, *metadata)
    if not faults and not checks:
        faults.append(Fault("", (last.dagster_event.message if last.dagster_event else None) or last.user_message))
    recipe = read_choice(run.run_config, "recipe") or environment.recipe_name()
    return EndedRun(run.run_id, recipe, ending, run.tags, faults, checks, made)


def _read_fault(event: dg.DagsterEvent) -> Iterator[Fault]:
    error = event.step_failure_data.error
    if error and error.cls_name == _BLOCKED:
        return  # it counts the checks that failed; they say more
    error = error.cause or error if error else None  # what the asset raised, not Dagster's words about it
    yield Fault(event.step_key or "", error.message if error else event.message or "")


def _read_values(metadata: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: getattr(metadata[name], "value", None) for name in names if name in metadata}
