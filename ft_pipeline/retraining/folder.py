"""Where a store keeps what retraining knows of a recipe's data."""

from __future__ import annotations

from pathlib import Path


def recipe_folder(store_root: Path, recipe_name: str) -> Path:
    """The recipe's folder in an artifact store."""
    return store_root / "_retraining" / recipe_name
