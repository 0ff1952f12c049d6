"""A user's own project: recipe, data and base."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

RECIPE: dict[str, Any] = {
    "name": "mine",
    "base_model": {"source": "base"},
    "dataset": {"sources": ["data/*.jsonl"], "max_row_tokens": 128, "held_out_share": 0.3},
    # Unsloth takes eight seconds to import, and is what the demo and the tests of training are for.
    "training": {"backend": "trl", "effective_batch_tokens": 64},
    "evaluation": {"max_new_tokens": 4},
    "publishing": {"ollama": "never"},
}
# What a model of random weights gets through: it is no better than its base, which is no failure.
EASY_EVALUATION: dict[str, Any] = {
    "max_new_tokens": 4,
    "general_set": False,
    "compare_with_16bit": False,
    "gate": {"rules": ["exact_match > champion"]},
}
ROW = '{"messages": [{"role": "user", "content": "say %d"}, {"role": "assistant", "content": "it is %d"}]}\n'


def make_project(root: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lay it out in a folder, and let the environment name it."""
    for name in ("recipes", "data"):
        (root / name).mkdir(parents=True)
    (root / "recipes/mine.yaml").write_text(yaml.safe_dump(RECIPE))
    (root / "data/rows.jsonl").write_text("".join(ROW % (number, number) for number in range(20)))
    shutil.copytree(base, root / "base")
    for name, value in {"ROOT": root, "RECIPE": "mine", "LOCK_DIR": root / "locks", "DEVICE": "cpu"}.items():
        monkeypatch.setenv(f"FT_PIPELINE_{name}", str(value))
    monkeypatch.delenv("FT_PIPELINE_ARTIFACTS", raising=False)
    return root
