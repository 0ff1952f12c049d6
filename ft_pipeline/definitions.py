"""What Dagster loads: `dagster asset materialize --select '*' -m ft_pipeline.definitions`."""

import dagster as dg

from ft_pipeline.defs import assets, checks
from ft_pipeline.defs.alerts import alerts
from ft_pipeline.defs.automation import fine_tune, schedules, sensors
from ft_pipeline.defs.lost_runs import lost_runs
from ft_pipeline.defs.resources import GpuResource, PipelineResource

defs = dg.Definitions(
    assets=dg.load_assets_from_modules([assets]),
    asset_checks=dg.load_asset_checks_from_modules([checks]),
    jobs=[fine_tune],
    sensors=[*sensors, lost_runs, alerts],
    schedules=schedules,
    resources={"pipeline": PipelineResource(), "gpu": GpuResource()},
    # Heavy stages run in processes of their own, so one process for the graph is enough, and 10 s faster.
    executor=dg.in_process_executor,
)
