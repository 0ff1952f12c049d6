"""The same tensor under several names: as the model's class calls it, as the base's files do, and as PEFT's does."""

from __future__ import annotations

import re
from collections.abc import Iterable

# What wraps a decoder: a text model inside one that reads images is language_model.model.* or model.language_model.*,
# and some bases were saved from the decoder alone, without "model." or "transformer.".
_WRAPPERS = {"model", "language_model", "transformer"}
_PREFIX = "base_model.model."
_KEY = re.compile(
    r"^(?P<module>.+)\.(?:lora_(?P<embedding>embedding_)?(?P<factor>[AB])(?:\.weight)?"
    r"|(?P<bias>lora_B\.bias)|(?P<magnitude>lora_magnitude_vector)(?:\.weight)?)$"
)


def find_names(wanted: Iterable[str], stored: Iterable[str]) -> dict[str, str | None]:
    """The stored name of each wanted tensor: the same one, or the only one that differs in its wrappers alone.

    None: there is no such tensor, or more than one would do.
    """
    stored = list(stored)
    by_core: dict[str, list[str]] = {}
    for name in stored:
        by_core.setdefault(_unwrap(name), []).append(name)
    exact = set(stored)
    found: dict[str, str | None] = {}
    for name in wanted:
        alike = by_core.get(_unwrap(name), [])
        found[name] = name if name in exact else alike[0] if len(alike) == 1 else None
    return found


def locate(key: str) -> tuple[str, str]:
    """The parameter of the model that a tensor of the adapter's file is for, and what it is of it."""
    # PEFT adds the embedding itself where it is adapted or resized, and biases, as ".base_layer.".
    name = key.removeprefix(_PREFIX).replace(".base_layer.", ".")
    found = _KEY.match(name)
    if not found:
        return name, "whole"
    if found["bias"]:
        return f"{found['module']}.bias", "added"
    part = "magnitude" if found["magnitude"] else f"{found['embedding'] or ''}{found['factor']}"
    return f"{found['module']}.weight", part


def _unwrap(name: str) -> str:
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        del parts[0]
    return ".".join(parts)
