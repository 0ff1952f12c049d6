"""From an adapter to the files that ship: merged, as a 16-bit GGUF, quantized. The base goes the same way.

The 16-bit GGUF is an artifact of its own: every type is quantized from it, the evaluation compares with it, and then
retention takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ft_pipeline.artifact import Artifact, ArtifactKey
from ft_pipeline.base_model import published_hashes
from ft_pipeline.builder import ArtifactBuilder
from ft_pipeline.datasets.validated import EVALUATION_FILE, sample_conversations
from ft_pipeline.errors import ArtifactError
from ft_pipeline.merging.merge import MergeRequest
from ft_pipeline.quantization.convert_stage import ConvertRequest
from ft_pipeline.quantization.files import gguf_file_name, unquantized_type
from ft_pipeline.quantization.gguf import GgufRequest
from ft_pipeline.quantization.metadata import Provenance
from ft_pipeline.quantization.preflight import ExportCheckRequest, require_room
from ft_pipeline.quantization.types import needs_importance


class Export:
    """The stages between training and evaluation.

    Args:
        builder: Of the run.
    """

    def __init__(self, builder: ArtifactBuilder) -> None:
        self._builder = builder

    def check(self) -> Artifact:
        """Whether the base can become a GGUF at all, found out before training; made once for a base.

        Raises:
            ConversionError: llama.cpp does not take the base, or reads its tokens otherwise.
            DiskSpaceError: the disk does not hold what will be written.
            MemoryBudgetError: this machine's memory is too small for it.
        """
        recipe, builder = self._builder.recipe, self._builder
        found = builder.build(
            "ft_pipeline.quantization.preflight:check_export",
            builder.lineage.export_check,
            lambda draft: ExportCheckRequest(
                base=builder.base.path,
                name=recipe.name,
                settings=recipe.quantization,
                dtype=recipe.merging.dtype,
                out_dir=draft,
            ),
        )
        require_room(builder.store.root, found.manifest.summary, there=self._find_made())
        return found

    def _find_made(self) -> set[str]:
        """What of the export the store holds already, by the names of its keys."""
        lineage = self._builder.lineage
        keys = {
            "merged_model": lineage.merged_model,
            "f16_gguf": lineage.f16_gguf,
            "gguf_model": lineage.gguf_model,
            "base_f16_gguf": lineage.base_f16_gguf,
            "base_gguf": lineage.base_gguf,
        }
        made = {artifact.manifest.fingerprint for artifact in self._builder.store.list_artifacts()}
        return {name for name, key in keys.items() if key.fingerprint in made}

    def merged_model(self) -> Artifact:
        """The adapter merged into the 16-bit base."""
        builder = self._builder
        adapter = builder.require(builder.lineage.trained_adapter)
        return builder.build(
            "ft_pipeline.merging.merge:merge_adapter",
            builder.lineage.merged_model,
            lambda draft: MergeRequest(
                base=builder.base.path,
                adapter=adapter.path,
                out_dir=draft,
                base_dtype=adapter.manifest.summary.figures.get("base_dtype"),
                base_hashes=published_hashes(builder.base.path),
                **builder.recipe.merging.model_dump(),
            ),
        )

    def gguf_model(self) -> Artifact:
        """The merged model in every quantization type of the recipe, checked as llama.cpp reads it."""
        builder, lineage, name = self._builder, self._builder.lineage, self._builder.recipe.name
        # The nearest first: the command that an error names then makes the others too.
        merged, adapter = builder.require(lineage.merged_model), builder.require(lineage.trained_adapter)
        validated = builder.require_validated()
        provenance = self._describe(adapter, validated)
        return self._quantize(
            lineage.gguf_model,
            lambda draft: GgufRequest(
                f16=self._convert(lineage.f16_gguf, merged.path, name, provenance),
                model=merged.path,
                name=name,
                settings=builder.recipe.quantization,
                out_dir=draft,
                parity_conversations=sample_conversations(validated.path / EVALUATION_FILE),
                importance=adapter.path,
                adapter=adapter.path,
                base=builder.base.path,
                provenance=provenance,
            ),
        )

    def reference_gguf(self) -> Path:
        """The merged model as a 16-bit GGUF, which retention takes after an evaluation and which is made again here."""
        builder, key = self._builder, self._builder.lineage.f16_gguf
        name = builder.recipe.name
        try:
            return self._find_converted(builder.require(key), name)
        except ArtifactError:
            merged = builder.require(builder.lineage.merged_model)
        adapter = builder.require(builder.lineage.trained_adapter)
        return self._convert(key, merged.path, name, self._describe(adapter, builder.require_validated()))

    def base_gguf(self) -> Artifact:
        """The base in the type that is gated, to compare with: made once for a base."""
        builder, lineage = self._builder, self._builder.lineage
        validated, name, settings = builder.require_validated(), self.base_name, builder.recipe.quantization
        gated, importance = settings.types[:1], None
        if needs_importance(gated, settings.tensor_types):
            importance = builder.require(lineage.trained_adapter).path
        return self._quantize(
            lineage.base_gguf,
            lambda draft: GgufRequest(
                f16=self._convert(lineage.base_f16_gguf, builder.base.path, name, None),
                model=builder.base.path,
                name=name,
                # The training's matrix only for what cannot be made without one: it knows the training rows.
                settings=settings.model_copy(update={"imatrix": "never", "types": gated}),
                out_dir=draft,
                parity_conversations=sample_conversations(validated.path / EVALUATION_FILE),
                importance=importance,
            ),
        )

    @property
    def base_name(self) -> str:
        """What the base's GGUFs are called."""
        return f"{self._builder.recipe.name}-base"

    def _convert(self, key: ArtifactKey, model: Path, name: str, provenance: Provenance | None) -> Path:
        dtype = self._builder.recipe.merging.dtype
        artifact = self._builder.build(
            "ft_pipeline.quantization.convert_stage:convert_model",
            key,
            lambda draft: ConvertRequest(model=model, name=name, dtype=dtype, provenance=provenance, out_dir=draft),
        )
        return self._find_converted(artifact, name)

    def _find_converted(self, artifact: Artifact, name: str) -> Path:
        return artifact.path / gguf_file_name(name, unquantized_type(self._builder.recipe.merging.dtype))

    def _quantize(self, key: ArtifactKey, request: Callable[[Path], GgufRequest]) -> Artifact:
        return self._builder.build("ft_pipeline.quantization.gguf:build_gguf", key, request)

    def _describe(self, adapter: Artifact, validated: Artifact) -> Provenance:
        builder = self._builder
        recipe, base = builder.recipe, builder.base
        return Provenance(
            name=recipe.name,
            description=recipe.description,
            base_name=base.name,
            base_revision=recipe.base_model.revision,
            base_identity=base.identity,
            data_fingerprint=validated.manifest.fingerprint,
            adapter_fingerprint=adapter.manifest.fingerprint,
            recipe=recipe.model_dump(mode="json"),
            figures=adapter.manifest.summary.figures,
        )
