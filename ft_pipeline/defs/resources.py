"""What a run is given. A field that is set in run config wins over the environment."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from ft_pipeline import environment
from ft_pipeline.containment import read_choice, require_inside
from ft_pipeline.errors import PipelineError
from ft_pipeline.finetuning.device import GpuSettings
from ft_pipeline.pipeline import Pipeline
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.recipe import Recipe
from ft_pipeline.recipe_file import find_recipe, load_recipe, require_own_name
from ft_pipeline.run import Run


class PipelineResource(dg.ConfigurableResource):
    """The pipeline of a run: which recipe, on which store."""

    recipe: str = Field(default="", description="A name in recipes/ or a path; empty: FT_PIPELINE_RECIPE, else demo.")
    overrides: dict[str, Any] = Field(
        default_factory=dict, description='Fields for this run, by dotted name: {"training.epochs": 3}.'
    )
    data: str = Field(
        default="",
        description="The content that retraining has started this run for; empty: the files that are there now.",
    )
    artifacts: str = Field(
        default="", description="The store's folder; empty: FT_PIPELINE_ARTIFACTS, else data/artifacts."
    )
    force: bool = Field(
        default=False, description="Build the selected assets anew; what was there, and a champion, stays untouched."
    )

    _run: Run | None = PrivateAttr(default=None)
    _has_told: bool = PrivateAttr(default=False)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """From the start of the run it can be seen in the store that its process lives."""
        if context.run and context.instance:
            with suppress(PipelineError):  # what is wrong is told by the first asset, which opens the pipeline
                run = self._make_run(_find_ids(context.run, context.instance))
                run.hold()
                self._run = run

    def open(self, context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> Pipeline:
        """The pipeline of this run; a run that retries another one goes on with what that one began with."""
        if self._run is None:
            self._run = self._make_run(_find_ids(context.run, context.instance))
        if self._run.continues and not self._has_told:
            self._has_told = True
            context.log.info(
                f"goes on with the recipe, the data and the base that run {self._run.continues} began with; what "
                "was edited since then belongs to a new run"
            )
        return Pipeline(self._run, LogReporter(context.log), force=self.force)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002 - Dagster's signature
        """The process has no more to do for the run."""
        if self._run is not None:
            self._run.close()

    def _make_run(self, ids: list[str]) -> Run:
        root = environment.project_root()
        store = _find_store(self.artifacts)
        if self.artifacts:
            require_inside(store, [root, environment.artifacts_folder().parent], "pipeline.artifacts")
        return Run(lambda: self._load(root), root, store, ids, self.data, is_trial=bool(self.overrides))

    def _load(self, root: Path) -> Recipe:
        path = find_recipe(self.recipe or environment.recipe_name(), root)
        if self.recipe:
            require_inside(path, [root], "pipeline.recipe")
        recipe = load_recipe(path, self.overrides)
        require_own_name(recipe.name, root, path)
        return recipe


def find_store_of(run: dg.DagsterRun) -> Path:
    """The folder of the store that a run works on."""
    return _find_store(read_choice(run.run_config, "artifacts"))


def _find_store(artifacts: str) -> Path:
    return environment.project_root() / artifacts if artifacts else environment.artifacts_folder()


def _find_ids(run: dg.DagsterRun | None, instance: dg.DagsterInstance) -> list[str]:
    """The run and those that it re-executes, nearest first."""
    ids = []
    while run and run.run_id not in ids:
        ids.append(run.run_id)
        run = instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
    return ids


class GpuResource(dg.ConfigurableResource):
    """The one way to train: a device that one process of this machine holds at a time, in whatever instance it runs."""

    device: str = Field(
        default="", description="auto, cpu, or a GPU's index or UUID; empty: FT_PIPELINE_DEVICE, else auto."
    )
    vram_limit_gib: float | None = Field(
        default=None, gt=0, description="Use at most this much of the device's memory, as if it were a smaller card."
    )
    wait_seconds: float = Field(default=12 * 3600, ge=0, description="How long to wait for the device.")

    def settings(self) -> GpuSettings:
        """The same for the core."""
        limit = self.vram_limit_gib
        return GpuSettings(
            device=self.device or environment.device_name(),
            vram_limit_bytes=None if limit is None else int(limit * 2**30),
            wait_seconds=self.wait_seconds,
            lock_dir=environment.lock_folder(),
        )
