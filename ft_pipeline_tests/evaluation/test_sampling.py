from __future__ import annotations

import ctypes

import numpy as np
import pytest

from ft_pipeline.evaluation.sampling import list_candidates, make_draw
from ft_pipeline.recipe_evaluation import SamplingSection
from ft_pipeline_tests.evaluation.scored import make_row


def test_draws_as_llama_cpps_chain_of_samplers() -> None:
    import llama_cpp

    logits = np.random.default_rng(0).normal(0, 3, 200).astype(np.float32)
    sampling = SamplingSection(temperature=0.7, top_k=40, top_p=0.9, min_p=0.05)
    tokens, weights = list_candidates(logits, sampling)
    data = (llama_cpp.llama_token_data * 200)(*((index, float(logit), 0.0) for index, logit in enumerate(logits)))
    candidates = llama_cpp.llama_token_data_array(data=data, size=200, selected=-1, sorted=False)
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    for sampler in (
        llama_cpp.llama_sampler_init_top_k(40),
        llama_cpp.llama_sampler_init_top_p(0.9, 1),
        llama_cpp.llama_sampler_init_min_p(0.05, 1),
        llama_cpp.llama_sampler_init_temp(0.7),
        llama_cpp.llama_sampler_init_dist(0),
    ):
        llama_cpp.llama_sampler_chain_add(chain, sampler)
    llama_cpp.llama_sampler_apply(chain, ctypes.byref(candidates))
    llama_cpp.llama_sampler_free(chain)
    kept = candidates.data[: candidates.size]
    assert 1 < len(tokens) < 40
    assert tokens.tolist() == [one.id for one in kept]
    assert weights == pytest.approx([one.p for one in kept], rel=1e-4)


@pytest.mark.parametrize("settings", [{}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.05}])
@pytest.mark.parametrize("logits", [[np.nan] * 5, [1.0, np.nan, -50.0, 2.0, np.nan], [np.inf] * 5])
def test_logits_that_are_no_numbers_give_some_token(logits: list[float], settings: dict[str, float]) -> None:
    draw = make_draw(SamplingSection.model_validate({"temperature": 0.7, **settings}), make_row("sky", "blue"))
    assert draw is not None
    assert 0 <= draw(np.array(logits, np.float32)) < 5


@pytest.mark.parametrize("temperature", [1e-308, 5e-324])
def test_the_lowest_temperature_draws_the_likeliest(temperature: float) -> None:
    sampling = SamplingSection.model_construct(**{**SamplingSection().model_dump(), "temperature": temperature})
    tokens, weights = list_candidates(np.array([1.0, 40.0, 39.0], np.float32), sampling)
    assert tokens[0] == 1
    assert weights.tolist() == [1, 0, 0]
