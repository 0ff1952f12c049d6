"""Where a model comes from, as its GGUFs and its model card say it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from ft_pipeline.summary import Scalar

_HUB = "https://huggingface.co/"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_PREFIX = "ft_pipeline."
# llama.cpp's quantizer takes texts of 127 bytes at most.
_MOST_BYTES = 127
# What the converter otherwise reads out of the name of the model's folder, or of `_name_or_path` in config.json.
_GUESSED = ("basename", "finetune", "organization", "size_label", "version")


class Provenance(BaseModel):
    """What went into a model. It follows from the artifact's fingerprint: no dates, and no paths of a machine.

    Attributes:
        name: The recipe's name.
        description: The recipe's words for people.
        base_name: The base as the recipe names it: a folder of the project, or a name of the Hub.
        base_revision: Commit of the Hub's repository; None for a folder.
        base_identity: What the base's bytes are.
        data_fingerprint: Of the validated data set.
        adapter_fingerprint: Of the trained adapter.
        recipe: All fields of the recipe.
        figures: What the training says of itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str
    base_name: str
    base_revision: str | None
    base_identity: str
    data_fingerprint: str
    adapter_fingerprint: str
    recipe: dict[str, Any]
    figures: dict[str, Scalar]

    @property
    def hub_base(self) -> str | None:
        """The base's name on the Hub; None for a folder."""
        return self.base_name if self.base_revision and _HUB_NAME.fullmatch(self.base_name) else None

    @property
    def base_label(self) -> str:
        """The base's name for people; of a folder only the last part, as the rest is a matter of somebody's machine."""
        return self.hub_base or self.base_name.rstrip("/").rsplit("/", 1)[-1]


def converter_metadata(provenance: Provenance | None) -> dict[str, Any]:
    """What the converter's `--metadata` takes (gguf-py/gguf/metadata.py): keys of the GGUF standard.

    Args:
        provenance: None for a model that does not ship: then only what the converter would guess is left out.
    """
    found: dict[str, Any] = {f"general.{key}": None for key in _GUESSED}
    if provenance is None:
        return found
    found |= {
        "general.finetune": provenance.name,
        "general.tags": ["text-generation", "ft_pipeline"],
        "general.base_models": [_describe_base(provenance)],
    }
    if provenance.description:
        found["general.description"] = provenance.description
    return found


def adapter_card(name: str, provenance: Provenance | None) -> str:
    """What the converter of adapters reads in place of `--metadata`: a README.md that is nothing but front matter.

    Args:
        name: The GGUF's general.name.
        provenance: None: the file says nothing else.
    """
    said = {key.removeprefix("general."): value for key, value in converter_metadata(provenance).items() if value}
    if "base_models" in said:
        said["base_model"] = said.pop("base_models")
    # All escaped, on one line each: the converter looks for lines of three dashes.
    return f"---\n{yaml.safe_dump({'name': name, **said}, width=float('inf'))}---\n"


def lineage_keys(provenance: Provenance) -> Mapping[str, str]:
    """This pipeline's own keys, short enough for llama.cpp's quantizer; what is longer is cut."""
    keys = {
        "recipe": provenance.name,
        "base": provenance.base_identity,
        "data_fingerprint": provenance.data_fingerprint,
        "adapter_fingerprint": provenance.adapter_fingerprint,
    }
    loss = provenance.figures.get("held_out_loss")
    if isinstance(loss, float):
        keys["held_out_loss"] = f"{loss:.4f}"
    return {_PREFIX + key: _cut(value) for key, value in keys.items()}


def _describe_base(provenance: Provenance) -> dict[str, str]:
    if hub := provenance.hub_base:
        organization, _, name = hub.partition("/")
        return {
            "name": name,
            "organization": organization,
            "version": provenance.base_revision or "",
            "repo_url": _HUB + hub,
        }
    return {"name": provenance.base_label, "version": provenance.base_identity}


def _cut(text: str) -> str:
    return text.encode()[:_MOST_BYTES].decode(errors="ignore")
