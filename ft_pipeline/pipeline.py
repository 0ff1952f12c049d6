"""The seven assets, one method each, in the order of the graph. Dagster's assets call these; so can anybody.

Each method asks the lineage for its key and the store for the artifact, and does the work only if it is not there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ft_pipeline.artifact import Artifact
from ft_pipeline.builder import ArtifactBuilder
from ft_pipeline.datasets.parse_request import ParseRequest
from ft_pipeline.datasets.report.request import DataReportRequest
from ft_pipeline.datasets.validated import EVALUATION_FILE, TRAIN_FILE, ValidateRequest
from ft_pipeline.errors import ArtifactError
from ft_pipeline.evaluation.request import Contestant, EvaluationRequest
from ft_pipeline.export import Export
from ft_pipeline.finetuning.job import HISTORY_FILE, TrainRequest
from ft_pipeline.fingerprint import fingerprint
from ft_pipeline.lineage import Lineage, describe_maker
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.publishing.alias import Champion, alias_folder, list_published, promote, read_champion
from ft_pipeline.quantization.files import find_gguf
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
        self._reporter = reporter
        self._builder = ArtifactBuilder(run, reporter, force=force)
        self._export = Export(self._builder)
        self.store = self._builder.store

    def raw_dataset(self) -> Artifact:
        """Every line of the recipe's sources; the run begins with the recipe, the data and the base of this moment."""
        sources = self._run.pin()
        return self._builder.build(
            "ft_pipeline.datasets.parse:parse_sources",
            self._lineage.raw_dataset,
            lambda draft: ParseRequest(
                sources=sources,
                earlier=self._builder.earlier("raw_dataset"),
                maker=fingerprint(describe_maker("raw_dataset")),
                out_dir=draft,
            ),
        )

    def validated_dataset(self) -> Artifact:
        """Rows that keep the contract, tokenized and split."""
        raw = self._builder.require(self._lineage.raw_dataset)
        return self._builder.build(
            "ft_pipeline.datasets.validate:validate_dataset",
            self._lineage.validated_dataset,
            lambda draft: ValidateRequest(
                raw=raw.path,
                base=self._builder.base.path,
                base_identity=self._builder.base.identity,
                maker=fingerprint(describe_maker("validated_dataset")),
                settings=self._recipe.dataset,
                earlier=self._builder.earlier("validated_dataset"),
                out_dir=draft,
            ),
        )

    def export_check(self) -> Artifact:
        """Whether llama.cpp will take what is trained on this base, asked before training."""
        return self._export.check()

    def data_report(self) -> Artifact:
        """The validated data set for people, compared with the one before it."""
        validated = self._builder.require(self._lineage.validated_dataset)
        previous = self._run.previous_of("validated_dataset", validated.manifest.fingerprint)
        return self._builder.build(
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
        validated, key = self._builder.require_validated(), self._lineage.trained_adapter
        checkpoints = self.store.checkpoint_path(key)

        def request(draft: Path) -> TrainRequest:
            self._export.check()
            return TrainRequest(
                base=self._builder.base.path,
                base_name=self._builder.base.name,
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

        adapter = self._builder.build("ft_pipeline.finetuning.trainer:train_adapter", key, request)
        shutil.rmtree(checkpoints, ignore_errors=True)
        return adapter

    def merged_model(self) -> Artifact:
        """The adapter merged into the 16-bit base."""
        return self._export.merged_model()

    def gguf_model(self) -> Artifact:
        """The merged model in every quantization type of the recipe, checked as llama.cpp reads it."""
        return self._export.gguf_model()

    def evaluation_report(self) -> Artifact:
        """Base, champion and challenger, each as the GGUF that ships, on rows that none was trained on."""
        name, types = self._recipe.name, self._recipe.quantization.types
        validated, challenger = self._builder.require_validated(), self._builder.require_gguf()
        base = self._export.base_gguf()
        adapter = self._builder.require(self._lineage.trained_adapter)
        against = self._find_opponent()
        self._run.meet(against)
        return self._builder.build(
            "ft_pipeline.evaluation.evaluate:evaluate",
            self._lineage.evaluation_report(against),
            lambda draft: EvaluationRequest(
                rows=validated.path / EVALUATION_FILE,
                contestants=(
                    *self._contestants("base", base.path, self._export.base_name, types),
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
        challenger = self._builder.require_gguf()
        report = self._builder.require(self._lineage.evaluation_report(against))
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
        return self._builder.require(self._lineage.evaluation_report(self._find_opponent()))

    @property
    def _recipe(self) -> Recipe:
        return self._builder.recipe

    @property
    def _lineage(self) -> Lineage:
        return self._builder.lineage

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
        return [Contestant(role=role, quantization=t, gguf=find_gguf(folder, name, t)) for t in types]

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
            collected = collect_garbage(self.store, list_published(self._aliases), evaluated=self._run.id)
        except ArtifactError as err:
            self._reporter.warning(f"nothing was removed from the store: {err}")
            return publication
        return replace(publication, removed=collected.removed, freed_bytes=collected.freed_bytes)
