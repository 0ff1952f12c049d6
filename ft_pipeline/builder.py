"""How one artifact of a run is made: looked for by its key, else built in a process of its own, and written down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from ft_pipeline.artifact import Artifact, ArtifactKey, Written
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.base_model import BaseModel as Base
from ft_pipeline.errors import ConversionError, DatasetError
from ft_pipeline.lineage import ASSETS, Lineage
from ft_pipeline.processes.launcher import run_stage
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.recipe import Recipe
from ft_pipeline.run import Run


class ArtifactBuilder:
    """Builds the artifacts of one run.

    Args:
        run: What to make, and from what.
        reporter: Where the stages' words go.
        force: Build anew what is there already.
    """

    def __init__(self, run: Run, reporter: Reporter, *, force: bool = False) -> None:
        self.run = run
        self.store = ArtifactStore(run.store_root, tell=reporter.warning, verified=run.verified)
        self.reporter = reporter
        self._force = force

    @property
    def recipe(self) -> Recipe:
        """The run's recipe."""
        return self.run.recipe

    @property
    def base(self) -> Base:
        """The run's base, which must still be what it was."""
        return self.run.base

    @property
    def lineage(self) -> Lineage:
        """The keys of all that the run makes."""
        return self.run.lineage

    def earlier(self, asset: str) -> tuple[Path, ...]:
        """Folders of earlier artifacts of an asset, newest first: what they hold of the same files is taken over."""
        if self._force:
            return ()
        found = [artifact for artifact in self.store.list_artifacts() if artifact.manifest.asset == asset]
        return tuple(artifact.path for artifact in reversed(found))

    def require(self, key: ArtifactKey) -> Artifact:
        """The artifact of this key, which must be there.

        Raises:
            MissingArtifact: it is not.
            CorruptArtifact: it is damaged.
        """
        self.run.need(key.asset, key.fingerprint)
        return self.store.require(key)

    def require_validated(self) -> Artifact:
        """The validated data set, which must keep its contract.

        Raises:
            DatasetError: it does not.
        """
        artifact = self.require(self.lineage.validated_dataset)
        if detail := _describe_failed(artifact):
            raise DatasetError(
                f"the validated data set breaks its contract: {detail}. See {artifact.path}/quarantine.parquet; "
                "mend the rows or change the limit in the recipe, and start a new run."
            )
        return artifact

    def require_gguf(self) -> Artifact:
        """The quantized model, which llama.cpp must read as it was trained.

        Raises:
            ConversionError: it does not.
        """
        artifact = self.require(self.lineage.gguf_model)
        if detail := _describe_failed(artifact):
            raise ConversionError(
                f"a GGUF must read conversations as the model was trained on them: {detail}. Nothing is evaluated or "
                f"published; the files are in {artifact.path}."
            )
        return artifact

    def build(self, function: str, key: ArtifactKey, request: Callable[[Path], BaseModel]) -> Artifact:
        """The artifact of this key: the one that is there, or what a stage's process writes.

        Args:
            function: The stage, as `module:name`.
            key: What is wanted.
            request: Gives the stage's request for the folder that it is to fill; asked only if there is work.
        """

        def write(draft: Path) -> Written:
            result = run_stage(
                function,
                request(draft),
                reporter=self.reporter,
                log_path=self.store.log_path(key),
                lock=self.store.lock_of(key),
            )
            _ = self.base  # one that changed while the stage read it must not go into an artifact
            return Written(result.summary, result.peak_rss_bytes)

        if self._force and key.asset in ASSETS:
            key = self.run.renew(key)
        self.run.need(key.asset, key.fingerprint)
        artifact = self.store.build(key, write)
        self.run.settle(key)
        state = "reused" if artifact.reused else f"built in {artifact.manifest.wall_seconds:.1f} s"
        self.reporter.info(f"{key.asset} {key.fingerprint}: {state}")
        return artifact


def _describe_failed(artifact: Artifact) -> str:
    failed = artifact.manifest.summary.failed
    return "; ".join(f"{check.name} is {check.value}, limit {check.limit}: {check.detail}" for check in failed)
