"""The same tensor under two names: as the model's class calls it, and as the base's files do."""

from __future__ import annotations

from collections.abc import Iterable

# What wraps a decoder: a text model inside one that reads images is language_model.model.* or model.language_model.*,
# and some bases were saved from the decoder alone, without "model." or "transformer.".
_WRAPPERS = {"model", "language_model", "transformer"}


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


def _unwrap(name: str) -> str:
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        del parts[0]
    return ".".join(parts)
