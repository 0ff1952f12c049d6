from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.evaluation.costs import cards_that_fit, measure_costs
from ft_pipeline.evaluation.gguf_facts import GgufFacts, read_gguf_facts
from ft_pipeline.evaluation.llama_runner import LlamaRunner
from ft_pipeline.finetuning.cards import CARDS
from ft_pipeline.quantization.split import split_gguf
from ft_pipeline_tests.evaluation.scored import make_row
from ft_pipeline_tests.evaluation.shapes import LLAMA_8B_F16, LLAMA_8B_Q4_K_M
from ft_pipeline_tests.evaluation.tiny_gguf import CONTEXT_TOKENS, make_random_weights, write_gguf

ROWS = [make_row("what is the colour of the sky", "blue", number) for number in range(6)]


def fits(facts: GgufFacts) -> dict[str, int]:
    return {fit.card.name: fit.context_tokens for fit in cards_that_fit(facts)}


def test_measures_what_a_file_costs(random_gguf: Path) -> None:
    with LlamaRunner(random_gguf, cores=1) as runner:
        started = time.perf_counter()
        costs = measure_costs(runner, ROWS)
        seconds = time.perf_counter() - started
        weights = int(runner.model._llama.llama_model_size(runner.model.handle))
        cache = runner.model.facts.count_cache(CONTEXT_TOKENS)
    assert costs.size_bytes == random_gguf.stat().st_size
    assert costs.load_seconds > 0
    assert costs.first_token_seconds > 1 / costs.tokens_per_second > 0
    assert costs.threads == 1
    assert costs.memory_context_tokens == CONTEXT_TOKENS
    assert weights + cache < costs.memory_bytes < weights + cache + 2**23
    assert costs.vram_bytes is None
    assert seconds < 1


def test_a_shorter_conversation_takes_less_memory(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "long.gguf", make_random_weights(seed=0, layers=8))
    with LlamaRunner(path, cores=1) as runner:
        runner.model.context_tokens = 4096  # what a larger model would have been trained for
        short, long = (measure_costs(runner, ROWS, tokens) for tokens in (256, 4096))
        cache = runner.model.facts.count_cache(4096 - 256)
    assert (short.memory_context_tokens, long.memory_context_tokens) == (256, 4096)
    assert long.memory_bytes - short.memory_bytes >= cache


def test_all_parts_of_a_split_file_are_its_size(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", make_random_weights(seed=0))
    size, parts = path.stat().st_size, split_gguf(path, 2**21)
    with LlamaRunner(parts[0], cores=1) as runner:
        assert measure_costs(runner, ROWS).size_bytes >= size
        assert len(runner.score(ROWS, 4)) == len(ROWS)


def test_an_8b_in_four_bits_fits_10_gb_at_a_long_context_and_in_sixteen_bits_not_at_all() -> None:
    quantized = fits(LLAMA_8B_Q4_K_M)
    assert 16_384 <= quantized["rtx3080"] <= 40_000
    assert quantized["h100"] == LLAMA_8B_Q4_K_M.context_tokens
    assert fits(LLAMA_8B_F16)["rtx3080"] == 0
    assert fits(LLAMA_8B_F16)["rtx4090"] > 16_384


def test_a_context_is_a_multiple_of_256_or_the_models_own(random_gguf: Path) -> None:
    assert set(fits(read_gguf_facts(random_gguf)).values()) == {CONTEXT_TOKENS}
    odd = replace(LLAMA_8B_Q4_K_M, context_tokens=1000)
    assert set(fits(odd).values()) == {1000}
    assert fits(LLAMA_8B_Q4_K_M)["rtx3080"] % 256 == 0


def test_two_cards_of_a_kind_are_left_out() -> None:
    assert set(fits(LLAMA_8B_Q4_K_M)) == {name for name, card in CARDS.items() if card.count == 1}


@given(st.integers(1, 64), st.integers(0, 300_000))
def test_a_larger_card_never_holds_a_shorter_context(layers: int, context: int) -> None:
    facts = replace(LLAMA_8B_F16, layers=LLAMA_8B_F16.layers[:1] * layers, context_tokens=context)
    by_size = sorted(cards_that_fit(facts), key=lambda fit: fit.card.vram_bytes)
    contexts = [fit.context_tokens for fit in by_size]
    assert contexts == sorted(contexts)
    assert all(0 <= tokens <= context for tokens in contexts)


@pytest.mark.parametrize("heads", [0, 32])
def test_a_model_without_a_cache_fits_at_any_context_of_its_own(heads: int) -> None:
    layer = replace(LLAMA_8B_Q4_K_M.layers[0], cache_bytes_per_token=0, state_bytes=2**22)
    facts = replace(LLAMA_8B_Q4_K_M, layers=(layer,) * 32, heads=heads, context_tokens=262_144)
    assert fits(facts)["rtx3080"] == 262_144
