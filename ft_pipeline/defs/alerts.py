"""The sensor that tells people of runs. What Dagster keeps of a run goes to `alerts/`, which decides and tells."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from ft_pipeline import environment
from ft_pipeline.alerts.alert import AlertKind, Fault
from ft_pipeline.alerts.endings import BlockingCheck, EndedRun, Ending, find_alert
from ft_pipeline.alerts.outbox import RunEnd, list_receivers, work_off
from ft_pipeline.alerts.settings import SMTP, WEBHOOK
from ft_pipeline.containment import read_choice
from ft_pipeline.errors import AlertError
from ft_pipeline.listing import tell_some

# Runs of one ending that a tick looks at, and how many are fetched at once.
_MOST, _AT_ONCE = 500, 100
_SHOWN = 20
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
    receivers, ends = list_receivers(settings), list[RunEnd]()
    for event, ending in _ENDINGS.items():
        if cursor := seen.get(event.value):
            records, seen[event.value] = _fetch(instance, event, cursor)
            ends += _read_ends(instance, records, ending, settings.kinds, {receiver.name for receiver in receivers})
        else:
            seen[event.value] = instance.fetch_run_status_changes(event, 1).cursor
    outcome = work_off(ends, receivers, _RunTags(instance), datetime.now(UTC))
    for sentence in outcome.given_up:
        context.log.error(sentence)
    for sentence in outcome.warnings:
        context.log.warning(sentence)
    if outcome.waiting:
        raise AlertError(tell_some([*outcome.waiting, *outcome.warnings], _SHOWN, "\n"))
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


def _fetch(instance: dg.DagsterInstance, event: dg.DagsterEventType, cursor: str) -> tuple[list[Any], str]:
    """The runs that have ended so since: those behind one that waits for a receiver too, for others can be told."""
    records: list[Any] = []
    while True:
        found = instance.fetch_run_status_changes(event, _AT_ONCE, cursor, ascending=True)
        records, cursor = [*records, *found.records], found.cursor
        if not found.has_more or len(records) >= _MOST:
            return records, cursor


def _read_ends(
    instance: dg.DagsterInstance,
    records: list[Any],
    ending: Ending,
    kinds: frozenset[AlertKind],
    receivers: set[str],
) -> Iterator[RunEnd]:
    for record in records:
        run = instance.get_run_by_id(record.event_log_entry.run_id)
        if run is None:  # deleted meanwhile
            continue
        own = {tag: value.removeprefix(run.run_id) for tag, value in run.tags.items() if run.run_id in value}
        done = frozenset([*_find_tagged(own, _TOLD_TAG), *_find_tagged(own, _GIVEN_UP_TAG)])
        if receivers <= done:
            continue
        if alert := find_alert(_read_run(instance, run, ending, record.event_log_entry), kinds):
            tried = {name: datetime.fromisoformat(at.strip()) for name, at in _find_tagged(own, _TRIED_TAG).items()}
            yield RunEnd(run.run_id, alert, done, tried)


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
