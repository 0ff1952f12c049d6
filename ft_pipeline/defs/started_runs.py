"""Runs that retraining has started, as Dagster's instance has them: by their tags."""

from datetime import UTC, datetime

import dagster as dg

from ft_pipeline.retraining.decision import RunState, StartedRun
from ft_pipeline.retraining.retrainer import Due

_LAST_ASSET = "published_model"
RECIPE_TAG, DATA_TAG = "ft_pipeline/recipe", "ft_pipeline/data"
_ATTEMPT_TAG, _REASON_TAG = "ft_pipeline/attempt", "ft_pipeline/reason"
_STATES: dict[dg.DagsterRunStatus, RunState] = {
    dg.DagsterRunStatus.NOT_STARTED: "unlaunched",
    dg.DagsterRunStatus.SUCCESS: "succeeded",
}
# Whether a person has asked for the end of a run that has ended, which never changes.
_asked: dict[str, bool] = {}
_ENDINGS = {dg.DagsterEventType.PIPELINE_CANCELING, dg.DagsterEventType.PIPELINE_CANCELED}
_FORCED = "forcibly marked as canceled"  # so Dagster's page says, of a run that does not answer or has not begun
_BROKEN_OFF = {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}


def tags_of(recipe: str, due: Due) -> dict[str, str]:
    """The tags of a run that is due."""
    return {RECIPE_TAG: recipe, DATA_TAG: due.data, _ATTEMPT_TAG: str(due.attempt), _REASON_TAG: due.reason}


def list_started(instance: dg.DagsterInstance, recipe: str) -> list[StartedRun]:
    """All runs that retraining has started for a recipe, oldest first."""
    records = instance.get_run_records(dg.RunsFilter(tags={RECIPE_TAG: recipe}), ascending=True)
    return [
        StartedRun(
            id=record.dagster_run.run_id,
            data=record.dagster_run.tags[DATA_TAG],
            attempt=_read_attempt(record.dagster_run),
            state=_find_state(instance, record.dagster_run),
            ended_at=datetime.fromtimestamp(record.end_time, UTC) if record.end_time else None,
        )
        for record in records
        if DATA_TAG in record.dagster_run.tags and _is_whole(record.dagster_run)
    ]


def _is_whole(run: dg.DagsterRun) -> bool:
    """Whether it makes all up to the verdict: a person may have a part of a run done again, which has its tags too."""
    chosen = {key.path[-1] for key in run.asset_selection or ()} | set(run.step_keys_to_execute or ())
    return not chosen or _LAST_ASSET in chosen


def _read_attempt(run: dg.DagsterRun) -> int:
    found = run.tags.get(_ATTEMPT_TAG, "1")
    return int(found) if found.isdecimal() else 1


def _find_state(instance: dg.DagsterInstance, run: dg.DagsterRun) -> RunState:
    if run.status in _BROKEN_OFF:
        if run.run_id not in _asked:
            # Without a person's word before it, the run, the machine or the daemon has ended it.
            _asked[run.run_id] = any(map(_is_asked, instance.all_logs(run.run_id, of_type=_ENDINGS)))
        return "cancelled" if _asked[run.run_id] else "failed"
    return _STATES.get(run.status, "going")


def _is_asked(entry: dg.EventLogEntry) -> bool:
    event = entry.dagster_event
    if event is None:
        return False
    return event.event_type == dg.DagsterEventType.PIPELINE_CANCELING or _FORCED in (event.message or "")
