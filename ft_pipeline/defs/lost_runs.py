"""Runs whose process was killed are ended, so that they keep no place in a queue."""

from collections.abc import Iterator

import dagster as dg

from ft_pipeline.defs.resources import find_store_of
from ft_pipeline.lost_runs import RunningRun, look_for_lost

_RUNNING = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


@dg.sensor(
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ends runs whose process was killed, so that they keep no place in a queue.",
)
def lost_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Dagster's run monitoring does not look after processes on its own machine, nor after its command line's."""
    running = {run.run_id: run for run in context.instance.get_runs(dg.RunsFilter(statuses=_RUNNING))}
    found = look_for_lost(_describe(context.instance, running), context.cursor)
    for run_id in found.lost:
        context.instance.report_run_failed(
            running[run_id], "The run's process is gone: it was killed, or the machine went down. Start the run again."
        )
    context.update_cursor(found.memory)
    return dg.SkipReason(f"{len(running)} runs are going on, of which {len(found.lost)} had no process and were ended")


def _describe(instance: dg.DagsterInstance, runs: dict[str, dg.DagsterRun]) -> Iterator[RunningRun]:
    for run_id, run in runs.items():
        last = instance.get_records_for_run(run_id, limit=1, ascending=False).records
        yield RunningRun(run_id, find_store_of(run), last[0].storage_id if last else 0)
