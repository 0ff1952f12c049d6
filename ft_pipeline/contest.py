"""Who competes: the challenger, the base, the merged model in 16 bits, the champion, and the best champion ever."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ft_pipeline import environment
from ft_pipeline.artifact import Artifact, ArtifactKey
from ft_pipeline.builder import ArtifactBuilder
from ft_pipeline.datasets.validated import EVALUATION_FILE
from ft_pipeline.errors import ArtifactError
from ft_pipeline.evaluation.own_files import find_task_folder
from ft_pipeline.evaluation.request import Absence, Contestant, EvaluationRequest, Opponents, Role
from ft_pipeline.export import Export
from ft_pipeline.finetuning.device import GpuSettings
from ft_pipeline.finetuning.job import HISTORY_FILE
from ft_pipeline.publishing.champion_files import find_champion_files
from ft_pipeline.publishing.folder import PublishedFolder
from ft_pipeline.quantization.files import find_gguf, unquantized_type


class Contest:
    """The evaluation of one run.

    Args:
        builder: Of the run.
        export: Makes the base's and the 16-bit GGUF where they are not there yet.
    """

    def __init__(self, builder: ArtifactBuilder, export: Export) -> None:
        self._builder = builder
        self._export = export

    def report(self, opponents: Opponents, gpu: GpuSettings) -> Artifact:
        """All of them scored on rows that none was trained on.

        Args:
            opponents: The champion and the best champion of the moment.
            gpu: How the device may be used; it is held only if llama.cpp uses one.
        """
        builder, recipe = self._builder, self._builder.recipe
        # The nearest first: the command that an error names then makes the others too.
        builder.require_gguf()
        validated = builder.require_validated()
        adapter = builder.require(builder.lineage.trained_adapter)
        harness_folder = find_task_folder(recipe.evaluation.harness, builder.run.root)
        published, absent = self._find_published(opponents)
        made = self._list_made()

        def request(draft: Path) -> EvaluationRequest:
            return EvaluationRequest(
                rows=validated.path / EVALUATION_FILE,
                contestants=(*self._list_references(), *made, *published),
                absent=tuple(absent),
                settings=recipe.evaluation,
                metric_files=builder.run.metric_files,
                harness_folder=harness_folder,
                gpu=gpu,
                holder=f"recipe {recipe.name}, evaluation of run {builder.run.id}",
                out_dir=draft,
                recipe_name=recipe.name,
                loss_history=tuple(json.loads((adapter.path / HISTORY_FILE).read_bytes())),
            )

        return builder.build("ft_pipeline.evaluation.evaluate:evaluate", self._key(opponents, absent), request)

    def find_key(self, opponents: Opponents) -> ArtifactKey:
        """Key of the report, for which the files of the opponents are looked at: without one it is another report."""
        return self._key(opponents, self._find_published(opponents)[1])

    def _key(self, opponents: Opponents, absent: Sequence[Absence]) -> ArtifactKey:
        run = self._builder.run
        own = [*(file.sha256 for file in run.metric_files), *(file.sha256 for file in run.task_files)]
        return self._builder.lineage.evaluation_report(opponents, [absence.role for absence in absent], own)

    def _list_made(self) -> list[Contestant]:
        """The base in the type that is gated, and what was made of it in all types."""
        recipe = self._builder.recipe
        types = recipe.quantization.types
        base, challenger = self._export.base_gguf(), self._builder.require_gguf()
        return [
            *_list_files("base", base.path, self._export.base_name, types[:1]),
            *_list_files("challenger", challenger.path, recipe.name, types),
        ]

    def _list_references(self) -> list[Contestant]:
        """The merged model in 16 bits, if it is wanted; made again where retention has taken it."""
        recipe = self._builder.recipe
        if not recipe.evaluation.compare_with_16bit:
            return []
        quantization = unquantized_type(recipe.merging.dtype)
        return [Contestant(role="merged", quantization=quantization, gguf=self._export.reference_gguf())]

    def _find_published(self, opponents: Opponents) -> tuple[list[Contestant], list[Absence]]:
        """The files of the champion and of the best one ever, whole."""
        wanted: dict[Role, str | None] = {"champion": opponents.champion, "best": opponents.best}
        store, found, absent = self._builder.store, list[Contestant](), list[Absence]()
        folder = PublishedFolder(environment.published_folder(store.root), store.root, self._builder.recipe.name)
        for role, fingerprint in wanted.items():
            if fingerprint is None:
                continue
            self._builder.run.need("gguf_model", fingerprint)
            try:
                files = find_champion_files(store, folder, fingerprint)
            except ArtifactError as err:
                absent.append(Absence(role=role, reason=str(err)))
            else:
                found.append(Contestant(role=role, quantization=files.quantization, gguf=files.gguf))
        return found, absent


def _list_files(role: Role, folder: Path, name: str, types: Sequence[str]) -> list[Contestant]:
    return [Contestant(role=role, quantization=t, gguf=find_gguf(folder, name, t)) for t in types]
