"""The seven assets, one method each, in the order of the graph. Dagster's assets call these; so can anybody.

Each method asks the lineage for its key and the store for the artifact, and does the work only if it is not there.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

from ft_pipeline import environment
from ft_pipeline.artifact import Artifact
from ft_pipeline.builder import ArtifactBuilder
from ft_pipeline.contest import Contest
from ft_pipeline.datasets.parse_request import ParseRequest
from ft_pipeline.datasets.report.request import DataReportRequest
from ft_pipeline.datasets.validated import EVALUATION_FILE, TRAIN_FILE, ValidateRequest
from ft_pipeline.errors import ArtifactError, ResourceError
from ft_pipeline.evaluation.request import Opponents
from ft_pipeline.evaluation.rules import BETTER, GATE
from ft_pipeline.export import Export
from ft_pipeline.finetuning.device import GpuSettings
from ft_pipeline.finetuning.job import Replay, TrainRequest
from ft_pipeline.fingerprint import fingerprint
from ft_pipeline.lineage import Lineage, describe_maker
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.publishing.alias import alias_folder, read_state
from ft_pipeline.publishing.history import find_opponents
from ft_pipeline.publishing.publication import Judgement, Publication
from ft_pipeline.publishing.publisher import Publisher
from ft_pipeline.recipe import Recipe
from ft_pipeline.retention import collect_garbage
from ft_pipeline.retraining.ledger import Outcome
from ft_pipeline.run import Run


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
        self._contest = Contest(self._builder, self._export)
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
        artifact = self._builder.build(
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
        if artifact.manifest.summary.failed:
            self._judge("refused")
        return artifact

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
                gpu=gpu,
                holder=f"recipe {self._recipe.name}, run {self._run.id}",
                checkpoints=checkpoints,
                fingerprint=key.fingerprint,
                replay=self._find_replay(),
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

    def evaluation_report(self, gpu: GpuSettings) -> Artifact:
        """Base, champion and challenger, each as the GGUF that ships, on rows that none was trained on."""
        opponents = self._find_opponents()
        self._run.meet(opponents)
        report = self._contest.report(opponents, gpu)
        if report.manifest.summary.failed:
            self._judge("stopped")
        return report

    def published_model(self) -> Publication:
        """Make the challenger the champion if its report lets it through, then apply the retention rule."""
        # Not who is champion now, who may be another one since the report was made: the publisher judges that.
        opponents = self._run.opponents or self._find_opponents()
        report = self._builder.require(self._contest.find_key(opponents))
        challenger = self._builder.require_gguf()
        figures, checks = report.manifest.summary.figures, report.manifest.summary.checks
        judgement = Judgement(report.manifest.fingerprint, opponents, _find_score(report), bool(figures["is_best"]))
        if not all(check.passed for check in checks if check.name in (GATE, BETTER)):
            publication = self._publisher.reject(challenger, judgement, str(figures["verdict"]))
        else:
            publication = self._publisher.publish(challenger, judgement)
        self._judge("published" if publication.published else "kept")
        return self._collect(publication)

    def find_report(self) -> Artifact:
        """The report of this recipe on the data that is there now.

        Raises:
            MissingArtifact: it was not made yet.
        """
        return self._builder.require(self._contest.find_key(self._find_opponents()))

    def _find_replay(self) -> Replay | None:
        """What was trained on before, where only a share of that is trained on again."""
        if self._run.older is None:
            return None
        self._run.need("validated_dataset", self._run.older)
        older = self.store.load("validated_dataset", self._run.older)
        self.store.verify(older)
        share = self._recipe.retraining.replay_share
        return Replay(older=older.path / TRAIN_FILE, share=share, seed=int(self._run.older, 16))

    def _judge(self, outcome: Outcome) -> None:
        try:
            self._run.judge(outcome, self._lineage.validated_dataset.fingerprint)
        except (ArtifactError, ResourceError, OSError) as err:
            self._reporter.warning(f"retraining does not learn what became of this data: {err}")

    @property
    def _recipe(self) -> Recipe:
        return self._builder.recipe

    @property
    def _lineage(self) -> Lineage:
        return self._builder.lineage

    # -- who competes ------------------------------------------------------------------------------------------------

    def _find_opponents(self) -> Opponents:
        """Whom the challenger is, or was, compared with."""
        state = read_state(alias_folder(self.store.root), self._recipe.name)
        return find_opponents(state, self._lineage.gguf_model.fingerprint)

    @property
    def _publisher(self) -> Publisher:
        published = environment.published_folder(self.store.root)
        return Publisher(self.store, published, self._recipe, self._reporter, self._run.id)

    def _collect(self, publication: Publication) -> Publication:
        try:
            collected = collect_garbage(self.store, evaluated=self._run.id)
        except Exception as err:  # noqa: BLE001 - the model is published already, whatever goes wrong in the store
            self._reporter.warning(f"not all that nobody needs was removed from the store: {type(err).__name__}: {err}")
            return publication
        if collected.stuck:
            self._reporter.warning(
                f"{len(collected.stuck)} things in the store could not be removed; make gc names them"
            )
        return replace(publication, removed=collected.removed, freed_bytes=collected.freed_bytes)


def _find_score(report: Artifact) -> float | None:
    """The challenger's exact match on held-out rows; None where it could not be scored."""
    score = report.manifest.summary.figures.get("exact_match")
    return float(score) if isinstance(score, int | float) and math.isfinite(score) else None
