from __future__ import annotations

from typing import Any

import pytest

from ft_pipeline.lineage import Lineage
from ft_pipeline.recipe import Recipe


def _lineage(**sections: dict[str, Any]) -> Lineage:
    recipe = {"name": "mine", "base_model": {"source": "base"}, "dataset": {"sources": ["data/*.jsonl"]}, **sections}
    return Lineage(Recipe.model_validate(recipe), [("train", "0" * 64, "{}")], "base")


def _adapter_key(training: dict[str, Any]) -> str:
    return _lineage(training=training).trained_adapter.fingerprint


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


def test_the_order_of_tensor_types_changes_the_files() -> None:
    patterns = {"blk.0.ffn_down": "q8_0", "ffn_down": "q5_k"}
    one, other = (
        _lineage(quantization={"tensor_types": dict(pairs)}) for pairs in (patterns.items(), reversed(patterns.items()))
    )
    assert one.gguf_model.fingerprint != other.gguf_model.fingerprint
    assert one.base_gguf.fingerprint != other.base_gguf.fingerprint


@pytest.mark.parametrize(
    ("quantization", "is_made_anew"),
    [
        ({}, False),
        ({"types": ["IQ2_XS"]}, True),
        ({"types": ["Q8_0"], "tensor_types": {"ffn_up": "iq3_xxs"}}, True),
        ({"types": ["Q8_0"], "tensor_types": {"ffn_up": "q4_k"}}, False),
    ],
)
def test_a_base_that_takes_the_trainings_matrix_is_made_anew_for_each(
    quantization: dict[str, Any], is_made_anew: bool
) -> None:
    one, other = (_lineage(quantization=quantization, training={"seed": seed}).base_gguf for seed in (1, 2))
    assert (one.fingerprint != other.fingerprint) is is_made_anew
