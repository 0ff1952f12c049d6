"""The seven assets, one method each, in the order of the graph. Dagster's assets call these; so can anybody.

Each method asks the lineage for its key and the store for the artifact, and does the work only if it is not there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ft_pipeline.artifact import Artifact, ArtifactKey, Written
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.base_model import BaseModel as Base
from ft_pipeline.base_model import size_of_weights
from ft_pipeline.datasets.parse_request import ParseRequest
from ft_pipeline.datasets.report.request import DataReportRequest
from ft_pipeline.datasets.validated import EVALUATION_FILE, TRAIN_FILE, ValidateRequest, sample_conversations
from ft_pipeline.errors import ArtifactError, DatasetError
from ft_pipeline.evaluation.request import Contestant, EvaluationRequest
from ft_pipeline.finetuning.job import HISTORY_FILE, TrainRequest
from ft_pipeline.fingerprint import fingerprint
from ft_pipeline.lineage import ASSETS, Lineage, describe_maker
from ft_pipeline.merging.merge import MergeRequest
from ft_pipeline.processes.launcher import run_stage
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.publishing.alias import Champion, alias_folder, list_published, promote, read_champion
from ft_pipeline.quantization.gguf import GgufRequest, gguf_file_name
from ft_pipeline.quantization.types import TYPES
from ft_pipeline.recipe import Recipe
from ft_pipeline.retention import collect_garbage
from ft_pipeline.run import Run


@dataclass(frozen=True)
class GpuSettings:
    """How the device may be used: what Dagster's `GpuResource` holds."""

    device: str
    vram_limit_bytes: int | None
    wait_seconds: float
    lock_dir: Path


@dataclass(frozen=True)
class Publication:
    """What `published_model` did, and why."""

    published: bool
    reason: str
    champion: Champion | None
    gguf: Path | None
    removed: tuple[str, ...] = ()
    freed_bytes: int = 0


class Pipeline:
    """The stages of one run.

    Args:
        run: What to make, and from what.
        reporter: Where the stages' words go.
        force: Build anew what is there already.
    """

    def __init__(self, run: Run, reporter: Reporter, *, force: bool = False) -> None:
        self._run = run
        self.store = ArtifactStore(run.store_root, tell=reporter.warning, verified=run.verified)
        self._reporter = reporter
        self._force = force

    def raw_dataset(self) -> Artifact:
        """Every line of the recipe's sources; the run begins with the recipe, the data and the base of this moment."""
        sources = self._run.pin()
        return self._build_in_process(
            "ft_pipeline.datasets.parse:parse_sources",
            self._lineage.raw_dataset,
            lambda draft: ParseRequest(
                sources=sources,
                earlier=self._earlier("raw_dataset"),
                maker=fingerprint(describe_maker("raw_dataset")),
                out_dir=draft,
            ),
        )

    def validated_dataset(self) -> Artifact:
        """Rows that keep the contract, tokenized and split."""
        raw = self._require(self._lineage.raw_dataset)
        return self._build_in_process(
            "ft_pipeline.datasets.validate:validate_dataset",
            self._lineage.validated_dataset,
            lambda draft: ValidateRequest(
                raw=raw.path,
                base=self._base.path,
                base_identity=self._base.identity,
                maker=fingerprint(describe_maker("validated_dataset")),
                settings=self._recipe.dataset,
                earlier=self._earlier("validated_dataset"),
                out_dir=draft,
            ),
        )

    def data_report(self) -> Artifact:
        """The validated data set for people, compared with the one before it."""
        validated = self._require(self._lineage.validated_dataset)
        previous = self._run.previous_of("validated_dataset", validated.manifest.fingerprint)
        return self._build_in_process(
            "ft_pipeline.datasets.report.write:write_report",
            self._lineage.data_report(previous),
            lambda draft: DataReportRequest(
                validated=validated.path,
                previous=self.store.load("validated_dataset", previous).path if previous else None,
                recipe_name=self._recipe.name,
                out_dir=draft,
            ),
        )

    def trained_adapter(self, gpu: GpuSettings) -> Artifact:
        """A LoRA on the base, trained on the validated training rows while the device is held."""
        validated, key = self._require_validated(), self._lineage.trained_adapter
        checkpoints = self.store.checkpoint_path(key)

        def request(draft: Path) -> TrainRequest:
            self._require_space_for_all()
            return TrainRequest(
                base=self._base.path,
                base_name=self._base.name,
                rows=validated.path / TRAIN_FILE,
                held_out=validated.path / EVALUATION_FILE,
                settings=self._recipe.training,
                device=gpu.device,
                vram_limit_bytes=gpu.vram_limit_bytes,
                lock_dir=gpu.lock_dir,
                wait_seconds=gpu.wait_seconds,
                holder=f"recipe {self._recipe.name}, run {self._run.id}",
                checkpoints=checkpoints,
                fingerprint=key.fingerprint,
                out_dir=draft,
            )

        adapter = self._build_in_process("ft_pipeline.finetuning.trainer:train_adapter", key, request)
        shutil.rmtree(checkpoints, ignore_errors=True)
        return adapter

    def merged_model(self) -> Artifact:
        """The adapter merged into the 16-bit base."""
        adapter = self._require(self._lineage.trained_adapter)
        return self._build_in_process(
            "ft_pipeline.merging.merge:merge_adapter",
            self._lineage.merged_model,
            lambda draft: MergeRequest(base=self._base.path, adapter=adapter.path, out_dir=draft),
        )

    def gguf_model(self) -> Artifact:
        """The merged model in every quantization type of the recipe, checked as llama.cpp reads it."""
        validated, merged = self._require_validated(), self._require(self._lineage.merged_model)
        return self._build_gguf(self._lineage.gguf_model, merged.path, self._recipe.name, validated)

    def evaluation_report(self) -> Artifact:
        """Base, champion and challenger, each as the GGUF that ships, on rows that none was trained on."""
        name, types = self._recipe.name, self._recipe.quantization.types
        validated, challenger = self._require_validated(), self._require(self._lineage.gguf_model)
        base = self._build_gguf(self._lineage.base_gguf, self._base.path, f"{name}-base", validated)
        adapter = self._require(self._lineage.trained_adapter)
        against = self._find_opponent()
        self._run.meet(against)
        return self._build_in_process(
            "ft_pipeline.evaluation.evaluate:evaluate",
            self._lineage.evaluation_report(against),
            lambda draft: EvaluationRequest(
                rows=validated.path / EVALUATION_FILE,
                contestants=(
                    *self._contestants("base", base.path, f"{name}-base", types),
                    *self._contestants("challenger", challenger.path, name, types),
                    *self._champion_contestants(against),
                ),
                settings=self._recipe.evaluation,
                out_dir=draft,
                recipe_name=name,
                loss_history=tuple(json.loads((adapter.path / HISTORY_FILE).read_bytes())),
            ),
        )

    def published_model(self) -> Publication:
        """Make the challenger the champion if its report lets it through, then apply the retention rule."""
        # Not who is champion now, who may be another one since the report was made: `promote` judges that.
        met = self._run.opponent
        against = met.gguf_model if met else self._find_opponent()
        challenger = self._require(self._lineage.gguf_model)
        report = self._require(self._lineage.evaluation_report(against))
        present = read_champion(self._aliases, self._recipe.name)
        refused = [f"{check.name}: {check.detail}" for check in report.manifest.summary.checks if not check.passed]
        if refused:
            publication = Publication(False, "; ".join(refused), present, self._published_file(present))
        elif present and present.gguf_model == challenger.manifest.fingerprint:
            publication = Publication(False, "it is the champion already", present, self._published_file(present))
        else:
            champion = promote(
                self._aliases,
                self._recipe.name,
                gguf_model=challenger.manifest.fingerprint,
                evaluation_report=report.manifest.fingerprint,
                against=against,
            )
            publication = Publication(
                True, "it passed the gate and is better", champion, self._published_file(champion)
            )
        return self._collect(publication)

    def find_report(self) -> Artifact:
        """The report of this recipe on the data that is there now.

        Raises:
            MissingArtifact: it was not made yet.
        """
        return self._require(self._lineage.evaluation_report(self._find_opponent()))

    # -- what goes in ------------------------------------------------------------------------------------------------

    @property
    def _recipe(self) -> Recipe:
        return self._run.recipe

    @property
    def _base(self) -> Base:
        return self._run.base

    @property
    def _lineage(self) -> Lineage:
        return self._run.lineage

    def _earlier(self, asset: str) -> tuple[Path, ...]:
        """Folders of earlier artifacts of an asset, newest first: what they hold of the same files is taken over."""
        if self._force:
            return ()
        found = [artifact for artifact in self.store.list_artifacts() if artifact.manifest.asset == asset]
        return tuple(artifact.path for artifact in reversed(found))

    def _require(self, key: ArtifactKey) -> Artifact:
        self._run.need(key.asset, key.fingerprint)
        return self.store.require(key)

    def _require_space_for_all(self) -> None:
        """A disk that cannot hold the result is found out before training.

        That is 16-bit merged weights, and of challenger and base an f16 GGUF and every type.
        """
        bits = sum(TYPES[name].bits_per_weight for name in self._recipe.quantization.types)
        needed = size_of_weights(self._base.path) * (1 + 2 * (1 + bits / 16))
        self.store.require_space(int(needed), "training, merging and quantizing")

    def _require_validated(self) -> Artifact:
        artifact = self._require(self._lineage.validated_dataset)
        if failed := artifact.manifest.summary.failed:
            detail = "; ".join(
                f"{check.name} is {check.value}, limit {check.limit}: {check.detail}" for check in failed
            )
            raise DatasetError(
                f"the validated data set breaks its contract: {detail}. See {artifact.path}/quarantine.parquet; "
                "mend the rows or change the limit in the recipe, and start a new run."
            )
        return artifact

    # -- how it is made ----------------------------------------------------------------------------------------------

    def _build(self, key: ArtifactKey, write: Callable[[Path], Written]) -> Artifact:
        if self._force and key.asset in ASSETS:
            key = self._run.renew(key)
        self._run.need(key.asset, key.fingerprint)
        artifact = self.store.build(key, write)
        self._run.settle(key)
        state = "reused" if artifact.reused else f"built in {artifact.manifest.wall_seconds:.1f} s"
        self._reporter.info(f"{key.asset} {key.fingerprint}: {state}")
        return artifact

    def _build_in_process(self, function: str, key: ArtifactKey, request: Callable[[Path], BaseModel]) -> Artifact:
        def write(draft: Path) -> Written:
            result = run_stage(function, request(draft), reporter=self._reporter, log_path=self.store.log_path(key))
            _ = self._base  # one that changed while the stage read it must not go into an artifact
            return Written(result.summary, result.peak_rss_bytes)

        return self._build(key, write)

    def _build_gguf(self, key: ArtifactKey, model: Path, name: str, validated: Artifact) -> Artifact:
        return self._build_in_process(
            "ft_pipeline.quantization.gguf:build_gguf",
            key,
            lambda draft: GgufRequest(
                model=model,
                types=self._recipe.quantization.types,
                name=name,
                context_tokens=self._recipe.quantization.context_tokens,
                out_dir=draft,
                parity_conversations=sample_conversations(validated.path / EVALUATION_FILE),
            ),
        )

    # -- who competes ------------------------------------------------------------------------------------------------

    @property
    def _aliases(self) -> Path:
        return alias_folder(self.store.root)

    def _find_opponent(self) -> str | None:
        """Fingerprint of the champion that the challenger is, or was, compared with."""
        champion = read_champion(self._aliases, self._recipe.name)
        if champion and champion.gguf_model == self._lineage.gguf_model.fingerprint:
            return champion.against
        return champion.gguf_model if champion else None

    @staticmethod
    def _contestants(role: Any, folder: Path, name: str, types: Sequence[str]) -> list[Contestant]:
        return [Contestant(role=role, quantization=t, gguf=folder / gguf_file_name(name, t)) for t in types]

    def _champion_contestants(self, fingerprint: str | None) -> list[Contestant]:
        if fingerprint is None:
            return []
        self._run.need("gguf_model", fingerprint)
        champion = self.store.load("gguf_model", fingerprint)
        quantization = champion.manifest.ingredients["quantization"]["types"][0]
        return self._contestants("champion", champion.path, champion.manifest.ingredients["name"], [quantization])

    def _published_file(self, champion: Champion | None) -> Path | None:
        if champion is None:
            return None
        files = self._champion_contestants(champion.gguf_model)
        return files[0].gguf

    def _collect(self, publication: Publication) -> Publication:
        try:
            collected = collect_garbage(self.store, list_published(self._aliases))
        except ArtifactError as err:
            self._reporter.warning(f"nothing was removed from the store: {err}")
            return publication
        return replace(publication, removed=collected.removed, freed_bytes=collected.freed_bytes)
