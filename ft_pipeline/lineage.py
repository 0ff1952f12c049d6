"""What goes into each artifact, from top to bottom in the order of the graph.

Every fingerprint follows from the recipe, the pinned data and the base. None is looked up as "the latest", so a run
never takes another run's artifact, and a run without an event log finds the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any

from ft_pipeline.artifacts import ArtifactKey
from ft_pipeline.base_model import BaseModel
from ft_pipeline.recipe import Recipe

# Raised when a stage's own code changes what it writes; also Dagster's code version of the asset.
CODE_VERSIONS = {
    "raw_dataset": "1",
    "validated_dataset": "1",
    "trained_adapter": "1",
    "merged_model": "1",
    "gguf_model": "1",
    "base_gguf": "1",
    "evaluation_report": "1",
    "published_model": "1",
}
# Packages whose version can change an artifact's bytes.
_PACKAGES = {
    "raw_dataset": ("pyarrow",),
    "validated_dataset": ("polars", "pandera", "transformers", "tokenizers"),
    "trained_adapter": ("torch", "unsloth", "unsloth-zoo", "transformers", "trl", "peft", "bitsandbytes", "datasets"),
    "merged_model": ("torch", "transformers", "peft", "safetensors"),
    "gguf_model": ("llama-cpp-python", "transformers"),
    "base_gguf": ("llama-cpp-python", "transformers"),
    "evaluation_report": ("llama-cpp-python", "numpy", "matplotlib"),
}


class Lineage:
    """The keys of all artifacts of one run.

    Args:
        recipe: The recipe.
        data: Set and SHA-256 of every source file: the pinned data.
        base: The base model.
    """

    def __init__(self, recipe: Recipe, data: Sequence[tuple[str, str]], base: BaseModel) -> None:
        self._recipe = recipe
        self._data = sorted(data)
        self._base = base

    @cached_property
    def raw_dataset(self) -> ArtifactKey:
        return _key("raw_dataset", {"files": [list(entry) for entry in self._data]})

    @cached_property
    def validated_dataset(self) -> ArtifactKey:
        dataset = self._recipe.dataset.model_dump(exclude={"sources", "test_sets", "allowed_roots"})
        return _key("validated_dataset", {"dataset": dataset, "base": self._base.identity}, self.raw_dataset)

    @cached_property
    def trained_adapter(self) -> ArtifactKey:
        ingredients = {"training": self._recipe.training.model_dump(), "base": self._base.identity}
        return _key("trained_adapter", ingredients, self.validated_dataset)

    @cached_property
    def merged_model(self) -> ArtifactKey:
        return _key("merged_model", {"base": self._base.identity}, self.trained_adapter)

    @cached_property
    def gguf_model(self) -> ArtifactKey:
        return _key("gguf_model", self._gguf_ingredients, self.merged_model, self.validated_dataset)

    @cached_property
    def base_gguf(self) -> ArtifactKey:
        """The base in the types of the recipe, to compare with: made once for a base, used by every retraining."""
        return _key("base_gguf", {**self._gguf_ingredients, "base": self._base.identity})

    def evaluation_report(self, champion: str | None) -> ArtifactKey:
        """Key of the report of this challenger against the `gguf_model` with the fingerprint `champion`."""
        ingredients = {"evaluation": self._recipe.evaluation.model_dump(), "champion": champion}
        return _key("evaluation_report", ingredients, self.gguf_model, self.base_gguf, self.validated_dataset)

    @property
    def _gguf_ingredients(self) -> dict[str, Any]:
        return {"name": self._recipe.name, "quantization": self._recipe.quantization.model_dump()}


def _key(asset: str, ingredients: dict[str, Any], *upstream: ArtifactKey) -> ArtifactKey:
    packages = {name: version(name) for name in _PACKAGES[asset]}
    return ArtifactKey(
        asset,
        {**ingredients, "code": CODE_VERSIONS[asset], "packages": packages},
        {key.asset: key.fingerprint for key in upstream},
    )
