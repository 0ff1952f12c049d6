"""NEFTune's noise belongs to a row and a step, not to the way in which rows go through the model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: TID253

from ft_pipeline.finetuning.neftune import EmbeddingNoise
from ft_pipeline_tests.finetuning.training_runs import make_request, read_history, start

_LENGTHS = (3, 5, 40, 4)
_DIM, _ALPHA = 64, 5.0


class Model:
    """The part of a PEFT model that the noise looks at."""

    def __init__(self) -> None:
        self.embeddings = torch.nn.Embedding(10, _DIM)
        torch.nn.init.zeros_(self.embeddings.weight)

    def get_base_model(self) -> Model:
        return self

    def get_input_embeddings(self) -> Any:
        return self.embeddings


def draw(shape: tuple[int, int], rows: tuple[int, ...], step: int = 0, seed: int = 7) -> Any:
    """The noise alone, [*shape, d]: the embeddings are zeros."""
    noise, model = EmbeddingNoise(_ALPHA, seed), Model()
    noise.install(model)
    with noise.on_rows(step, rows, _LENGTHS):
        return model.embeddings(torch.zeros(shape, dtype=torch.int64)).detach()


def test_a_row_has_the_same_noise_packed_padded_and_alone() -> None:
    alone = [draw((1, length), (row,))[0] for row, length in enumerate(_LENGTHS)]
    packed = draw((1, 64), (1, 0, 3))[0]
    assert packed[:5].equal(alone[1])
    assert packed[5:8].equal(alone[0])
    assert packed[8:12].equal(alone[3])
    padded = draw((2, 40), (2, 0))
    assert padded[0].equal(alone[2])
    assert padded[1, :3].equal(alone[0])


def test_nothing_is_added_to_filling_and_padding() -> None:
    assert not draw((1, 64), (1, 0, 3))[0, 12:].any()
    assert not draw((2, 40), (2, 0))[1, 3:].any()


def test_noise_goes_up_to_alpha_over_the_root_of_the_rows_own_numbers() -> None:
    for row, length in enumerate(_LENGTHS):
        most = _ALPHA / math.sqrt(length * _DIM)
        assert 0.9 * most < float(draw((1, 64), (row,)).abs().max()) <= most


def test_rows_steps_and_seeds_have_noise_of_their_own() -> None:
    first = draw((1, 3), (0,))
    assert draw((1, 3), (0,)).equal(first)
    assert not draw((1, 3), (0,), step=1).equal(first)
    assert not draw((1, 3), (0,), seed=8).equal(first)
    assert not draw((1, 3), (3,))[0, :3].equal(first[0])


def test_noise_takes_nothing_from_the_common_generator() -> None:
    noise, model = EmbeddingNoise(_ALPHA, 7), Model()
    noise.install(model)
    before = torch.get_rng_state()
    with noise.on_rows(0, (0,), _LENGTHS):
        assert model.embeddings(torch.zeros((1, 3), dtype=torch.int64)).any()
    assert torch.get_rng_state().equal(before)


def test_there_is_no_noise_outside_a_step_and_after_one_that_failed() -> None:
    noise, model = EmbeddingNoise(_ALPHA, 7), Model()
    noise.install(model)
    ids = torch.zeros((1, 3), dtype=torch.int64)
    assert not model.embeddings(ids).any()

    def fail() -> None:
        with noise.on_rows(0, (0,), _LENGTHS):
            assert model.embeddings(ids).any()
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert not model.embeddings(ids).any()


def test_gradients_go_through_the_noise() -> None:
    noise, model = EmbeddingNoise(_ALPHA, 7), Model()
    noise.install(model)
    with noise.on_rows(0, (0,), _LENGTHS):
        model.embeddings(torch.zeros((1, 3), dtype=torch.int64)).sum().backward()
    assert model.embeddings.weight.grad[0].eq(3).all()


@pytest.mark.long
@pytest.mark.slow
def test_a_training_with_noise_has_the_same_losses_in_smaller_micro_batches(tiny_base: Path, tmp_path: Path) -> None:
    settings = {"neftune_noise_alpha": 50.0, "lora": {"rank": 8, "alpha": 16}}
    whole, short = (make_request(tmp_path / name, tiny_base, settings) for name in ("whole", "short"))
    plain = make_request(tmp_path / "plain", tiny_base, {"lora": {"rank": 8, "alpha": 16}})
    outcomes = [start(whole).finish(), start(short, "run_short_of_memory").finish(), start(plain).finish()]
    assert all("figures" in outcome for outcome in outcomes), outcomes
    assert outcomes[1]["figures"]["stepped_down"]
    losses = [[point["loss"] for point in read_history(request)] for request in (whole, short, plain)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[2] != pytest.approx(losses[0], rel=1e-3)
