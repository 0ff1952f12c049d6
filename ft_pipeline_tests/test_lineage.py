from __future__ import annotations

from typing import Any

import pytest

from ft_pipeline.lineage import Lineage
from ft_pipeline.recipe import Recipe


def _adapter_key(training: dict[str, Any]) -> str:
    recipe = Recipe.model_validate(
        {
            "name": "mine",
            "base_model": {"source": "base"},
            "dataset": {"sources": ["data/*.jsonl"]},
            "training": training,
        }
    )
    return Lineage(recipe, [("train", "0" * 64, "{}")], "base").trained_adapter.fingerprint


@pytest.mark.parametrize(
    "execution",
    [{"packing": "never"}, {"micro_batch_tokens": 64}, {"checkpoint_minutes": 1.0}, {"max_loss_jump": 9.0}],
)
def test_how_a_card_trains_is_no_part_of_the_adapters_fingerprint(execution: dict[str, Any]) -> None:
    assert _adapter_key({"execution": execution}) == _adapter_key({})


@pytest.mark.parametrize(
    "training",
    [{"seed": 1}, {"effective_batch_tokens": 512}, {"backend": "trl"}, {"lora": {"rank": 8}}, {"early_stopping": {}}],
)
def test_what_changes_the_result_is(training: dict[str, Any]) -> None:
    assert _adapter_key(training) != _adapter_key({})
