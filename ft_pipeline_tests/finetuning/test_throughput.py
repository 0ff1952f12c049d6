from __future__ import annotations

from dataclasses import replace

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
_GUIDE = Layout(2, 2048, packing=False, checkpointed_layers=32, offload_embeddings=False, optimizer="adamw_8bit")


@pytest.mark.parametrize(
    ("backend", "rows", "twice", "measured"),
    [("unsloth", 2, 32, 9836), ("unsloth", 8, 32, 10_310), ("unsloth", 8, 0, 15_222), ("trl", 2, 32, 5414)],
)
def test_full_rows_on_an_h200_are_within_6_percent_of_what_was_measured(
    backend: str, rows: int, twice: int, measured: float
) -> None:
    layout = replace(_GUIDE, micro_batch_rows=rows, checkpointed_layers=twice)
    training = TrainingSection.model_validate(_TRAINING.model_dump() | {"backend": backend})
    found = predict_time(_8B, training, layout, _FULL, CARDS["h200"])
    assert found.tokens_per_second == pytest.approx(measured, rel=0.06)


def test_an_rtx_4090_is_near_what_torchtune_publishes() -> None:
    layout = replace(_GUIDE, packing=True)
    assert predict_time(_8B, _TRAINING, layout, _FULL, CARDS["rtx4090"]).tokens_per_second == pytest.approx(
        2413, rel=0.06
    )


def test_operations_a_token_are_four_by_the_weights_and_six_with_recompute() -> None:
    kept = count_flops(_8B, _TRAINING, replace(_GUIDE, checkpointed_layers=0), 0)
    twice = count_flops(_8B, _TRAINING, _GUIDE, 0)
    assert (twice - kept) / _8B.linear_parameters == pytest.approx(2, rel=0.01)
    assert kept / 7.5e9 == pytest.approx(4, rel=0.06)


def test_attention_grows_with_the_row_it_is_within() -> None:
    assert count_flops(_8B, _TRAINING, _GUIDE, 8192) > 1.1 * count_flops(_8B, _TRAINING, _GUIDE, 512)


@pytest.mark.parametrize("name", ["rtx3080", "rtx4090", "h200"])
def test_padding_and_small_micro_batches_are_predicted_slow(name: str) -> None:
    lengths = RowLengths.of([60, 100, 153, 200, 450] * 100)

    def rate(rows: int, *, packing: bool) -> float:
        layout = replace(_GUIDE, row_tokens=450, micro_batch_rows=rows, packing=packing)
        return predict_time(_8B, _TRAINING, layout, lengths, CARDS[name]).tokens_per_second

    assert rate(1, packing=True) < 0.95 * rate(36, packing=True)
    assert rate(36, packing=False) < 0.7 * rate(36, packing=True)


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
