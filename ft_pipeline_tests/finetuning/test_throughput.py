from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ft_pipeline.finetuning.architecture import read_architecture
from ft_pipeline.finetuning.cards import CARDS
from ft_pipeline.finetuning.memory import Layout
from ft_pipeline.finetuning.row_lengths import RowLengths
from ft_pipeline.finetuning.shapes import SHAPES
from ft_pipeline.finetuning.throughput import count_flops, predict_time
from ft_pipeline.recipe import TrainingSection

_8B = read_architecture(SHAPES["llama-3.1-8b"])
_TRAINING = TrainingSection(effective_batch_tokens=16_384)
_FULL = RowLengths.assumed(2048)
_SHORT = RowLengths.assumed(128)
_GUIDE = Layout(2, 2048, packing=False, checkpointed_layers=32, offload_embeddings=False, optimizer="adamw_8bit")


def _rate(tokens: int, twice: int, lengths: RowLengths, card: str = "h200") -> float:
    layout = Layout(1, tokens, True, twice, False, "adamw_8bit")
    return predict_time(_8B, _TRAINING, layout, lengths, CARDS[card]).tokens_per_second


# Tokens/s of an 8B on an H200, short packed rows, by the pipeline's own loop; those up to 4,096 tokens at once are from
# before a product of layers that are computed twice was left out.
@pytest.mark.parametrize(
    ("tokens", "twice", "measured", "off"),
    [
        (2048, 0, 6781, 0.03),
        (4096, 0, 13_246, 0.03),
        (8192, 0, 16_390, 0.03),
        (16_384, 0, 16_790, 0.03),
        (2048, 32, 5987, 0.03),
        (4096, 32, 10_666, 0.12),
        (8260, 32, 11_770, 0.06),
        (16_384, 32, 12_450, 0.03),
    ],
)
def test_packed_micro_batches_on_an_h200_are_near_what_was_measured(
    tokens: int, twice: int, measured: float, off: float
) -> None:
    assert _rate(tokens, twice, _SHORT) == pytest.approx(measured, rel=off)


@pytest.mark.parametrize(
    ("backend", "row_tokens", "measured", "off"),
    [("unsloth", 153, 821, 0.08), ("trl", 153, 426, 0.03), ("trl", 2048, 5414, 0.06)],
)
def test_micro_batches_of_two_rows_are_near_what_their_floor_allows(
    backend: str, row_tokens: int, measured: float, off: float
) -> None:
    training = TrainingSection.model_validate({"effective_batch_tokens": 8 * row_tokens, "backend": backend})
    layout = replace(_GUIDE, row_tokens=row_tokens)
    found = predict_time(_8B, training, layout, RowLengths.assumed(row_tokens), CARDS["h200"])
    assert found.tokens_per_second == pytest.approx(measured, rel=off)


@pytest.mark.parametrize(("twice", "floor_seconds"), [(0, 32 * 9.4e-3), (32, 32 * 10.6e-3)])
def test_a_pass_of_few_tokens_takes_as_long_as_one_of_some_more(twice: int, floor_seconds: float) -> None:
    passes_128, passes_16 = (
        predict_time(
            _8B,
            _TRAINING,
            Layout(1, tokens, True, twice, False, "adamw_8bit"),
            RowLengths.assumed(tokens),
            CARDS["h200"],
        ).step_seconds
        for tokens in (128, 1024)
    )
    assert passes_128 - passes_16 == pytest.approx((128 - 16) * floor_seconds)


def test_a_slow_card_is_above_the_floor() -> None:
    few, more = (_rate(tokens, 32, _SHORT, "rtx3080") for tokens in (2048, 16_384))
    assert few > 0.9 * more


def test_an_rtx_4090_is_near_what_torchtune_publishes() -> None:
    layout = replace(_GUIDE, packing=True)
    assert predict_time(_8B, _TRAINING, layout, _FULL, CARDS["rtx4090"]).tokens_per_second == pytest.approx(
        2413, rel=0.06
    )


def test_operations_a_token_are_four_by_the_weights_and_six_with_recompute() -> None:
    kept = count_flops(_8B, _TRAINING, replace(_GUIDE, checkpointed_layers=0), 0)
    twice = count_flops(_8B, _TRAINING, _GUIDE, 0)
    assert kept / 7.5e9 == pytest.approx(4, rel=0.06)
    # The MLP's last matrix is 0.27 of a layer's weights, and is not multiplied with again.
    assert (twice - kept) / _8B.linear_parameters == pytest.approx(2 * (1 - 0.27), rel=0.01)


@pytest.mark.parametrize(
    "change", [{"backend": "trl"}, {"lora": {"use_dora": True}}, {"lora": {"target_modules": ["q_proj"]}}]
)
def test_only_unsloths_fused_mlp_leaves_a_product_out(change: dict[str, Any]) -> None:
    training = TrainingSection.model_validate(change)
    twice, kept = (count_flops(_8B, training, replace(_GUIDE, checkpointed_layers=layers), 0) for layers in (32, 0))
    assert (twice - kept) / _8B.linear_parameters == pytest.approx(2, rel=0.02)


def test_attention_grows_with_the_row_it_is_within() -> None:
    assert count_flops(_8B, _TRAINING, _GUIDE, 8192) > 1.1 * count_flops(_8B, _TRAINING, _GUIDE, 512)


@pytest.mark.parametrize("name", ["rtx3080", "rtx4090", "h200"])
def test_padding_and_small_micro_batches_are_predicted_slow(name: str) -> None:
    lengths = RowLengths.of([60, 100, 153, 200, 450] * 100)

    def rate(rows: int, *, packing: bool) -> float:
        layout = replace(_GUIDE, row_tokens=450, micro_batch_rows=rows, packing=packing)
        return predict_time(_8B, _TRAINING, layout, lengths, CARDS[name]).tokens_per_second

    assert rate(1, packing=True) < 0.95 * rate(36, packing=True)
    assert rate(36, packing=False) < 0.75 * rate(36, packing=True)


def test_hours_are_of_all_epochs_and_of_ten_thousand_examples() -> None:
    training = TrainingSection(effective_batch_tokens=16_384, epochs=3)
    found = predict_time(_8B, training, _GUIDE, RowLengths.assumed(2048, count=5000), CARDS["rtx4090"])
    assert found.training_hours == pytest.approx(1.5 * found.hours_per_10k_examples)
    assert found.hours_per_10k_examples * 3600 * found.tokens_per_second == pytest.approx(10_000 * 2048)
    assert found.step_seconds * found.tokens_per_second == pytest.approx(16_384)


def test_embeddings_on_the_host_cost_some_time() -> None:
    here, away = (
        predict_time(
            _8B, _TRAINING, replace(_GUIDE, offload_embeddings=host), _FULL, CARDS["rtx3080"]
        ).tokens_per_second
        for host in (False, True)
    )
    assert 0.99 * here < away < here
