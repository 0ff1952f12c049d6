"""One hash for all that goes into an artifact."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

FINGERPRINT_CHARS = 24
_CHUNK_BYTES = 1 << 20


def fingerprint(ingredients: Mapping[str, Any]) -> str:
    """The first 96 bits of the SHA-256 of the ingredients' canonical JSON, in hex.

    Keys are sorted; text is taken as it is (no Unicode normalization: other bytes are other data); a float is written
    by its shortest exact form, so 1.0 and 1 differ, as do 0.1 and 0.10000000000000002; tuples are lists.

    Raises:
        TypeError: a value that has no canonical form (a set, an object, a key that is no text).
        ValueError: NaN or an infinity.
    """
    text = json.dumps(_canonical(ingredients), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_CHARS]


def _canonical(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _canonical(value.model_dump())
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"an ingredient's key must be text, got {key!r} ({type(key).__name__})")
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"an ingredient must be a finite number, got {value!r}")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"an ingredient must be JSON-like, got {value!r} ({type(value).__name__})")


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
