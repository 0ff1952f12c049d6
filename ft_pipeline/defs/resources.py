"""What a run is given. A field that is set in run config wins over the environment."""

from typing import Any

import dagster as dg
from pydantic import Field

from ft_pipeline import environment
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.pipeline import GpuSettings, Pipeline
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.recipe_file import find_recipe, load_recipe


class PipelineResource(dg.ConfigurableResource):
    """The pipeline of a run: which recipe, on which store."""

    recipe: str = Field(default="", description="A name in recipes/ or a path; empty: FT_PIPELINE_RECIPE, else demo.")
    overrides: dict[str, Any] = Field(
        default_factory=dict, description='Fields for this run, by dotted name: {"training.epochs": 3}.'
    )
    artifacts: str = Field(
        default="", description="The store's folder; empty: FT_PIPELINE_ARTIFACTS, else data/artifacts."
    )
    force: bool = Field(default=False, description="Build the selected assets anew even if they are there.")

    def open(self, context: dg.AssetExecutionContext) -> Pipeline:
        """The pipeline of this run. The run that it retries, if any, says which data was pinned."""
        root, log, run = environment.project_root(), context.log, context.run
        artifacts = root / self.artifacts if self.artifacts else environment.artifacts_folder()
        return Pipeline(
            load_recipe(find_recipe(self.recipe or environment.recipe_name(), root), self.overrides),
            root,
            ArtifactStore(artifacts, on_damage=log.warning),
            LogReporter(log),
            [run_id for run_id in (run.run_id, run.parent_run_id, run.root_run_id) if run_id],
            force=self.force,
        )


class GpuResource(dg.ConfigurableResource):
    """The one way to train: a device that one process of this machine holds at a time, in whatever instance it runs."""

    device: str = Field(
        default="", description="auto, cpu, or a GPU's index or UUID; empty: FT_PIPELINE_DEVICE, else auto."
    )
    memory_limit_gib: float | None = Field(
        default=None, gt=0, description="Use at most this much of the device's memory."
    )
    wait_seconds: float = Field(default=12 * 3600, ge=0, description="How long to wait for the device.")

    def settings(self) -> GpuSettings:
        """The same for the core."""
        limit = self.memory_limit_gib
        return GpuSettings(
            device=self.device or environment.device_name(),
            memory_limit_bytes=None if limit is None else int(limit * 2**30),
            wait_seconds=self.wait_seconds,
            lock_dir=environment.lock_folder(),
        )
