"""`python -m ft_pipeline.defs.history`: Dagster's own runs, events and logs that are old enough to go."""

from datetime import UTC, datetime
from pathlib import Path

import click
import dagster as dg
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager

from ft_pipeline import environment
from ft_pipeline.command_line import run_command
from ft_pipeline.leftovers import measure_files
from ft_pipeline.operations.run_history import FinishedRun, Rule, find_expired_runs, find_old_logs, remove_logs
from ft_pipeline.ownership import require_owner
from ft_pipeline.run_record import RunFolder

_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


@click.command()
@click.option("--days", type=click.IntRange(1), default=90, show_default=True, help="Runs of so many days stay.")
@click.option("--last", type=click.IntRange(0), default=50, show_default=True, help="So many runs stay, however old.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def main(days: int, last: int, dry_run: bool) -> None:
    """Remove runs that ended long ago and of which the artifact store has no record any more, and old logs."""
    if environment.dagster_home() is None:
        click.echo("DAGSTER_HOME is not set: there is no history to look after")
        return
    require_owner(environment.artifacts_folder())
    rule = Rule(datetime.now(UTC), days, last)
    recorded = {run.id for run in RunFolder(environment.artifacts_folder()).list_runs()}
    with dg.DagsterInstance.get() as instance:
        runs = instance.get_run_ids()
        expired = find_expired_runs(_list_ended(instance), recorded, rule)
        logs = _log_folder(instance)
        old = find_old_logs(logs, set(runs) - set(expired), rule) if logs else []
        size = sum(measure_files(path, set()) for path in old)
        if not dry_run:
            for run_id in expired:
                _forget(instance, run_id)
            if logs:
                remove_logs(logs, old)
    done = "would go" if dry_run else "gone"
    click.echo(
        f"Dagster's runs: {len(runs)}, {done}: {len(expired)}; old log files {done}: {len(old)}, {size / 2**20:.1f} MiB"
    )


def _list_ended(instance: dg.DagsterInstance) -> list[FinishedRun]:
    records = instance.get_run_records(dg.RunsFilter(statuses=_ENDED))
    return [FinishedRun(record.dagster_run.run_id, _find_end(record)) for record in records]


def _find_end(record: dg.RunRecord) -> datetime:
    """A run that was cancelled in the queue has no end."""
    return record.create_timestamp if record.end_time is None else datetime.fromtimestamp(record.end_time, UTC)


def _log_folder(instance: dg.DagsterInstance) -> Path | None:
    """Where compute logs are, if they are files of this machine."""
    manager = instance.compute_log_manager
    return Path(manager._base_dir) if isinstance(manager, LocalComputeLogManager) else None


def _forget(instance: dg.DagsterInstance, run_id: str) -> None:
    instance.delete_run(run_id)
    storage = instance.event_log_storage
    if isinstance(storage, SqliteEventLogStorage):  # one file a run, which Dagster empties and leaves
        for suffix in ("", "-wal", "-shm"):
            Path(storage.path_for_shard(run_id) + suffix).unlink(missing_ok=True)


if __name__ == "__main__":
    run_command(main)
