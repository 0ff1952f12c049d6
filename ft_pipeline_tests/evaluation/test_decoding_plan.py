from __future__ import annotations

from dataclasses import replace

from ft_pipeline.evaluation.decoding_plan import DecodingPlan, cut_shards, plan_decoding
from ft_pipeline.evaluation.gguf_facts import GgufFacts, Layer
from ft_pipeline_tests.evaluation.shapes import LLAMA_8B_Q4_K_M


def make_facts(cache_bytes_per_token: int, *, state_bytes: int = 0, vocabulary: int = 4096) -> GgufFacts:
    layer = Layer(1, 1, cache_bytes_per_token, state_bytes)
    return replace(LLAMA_8B_Q4_K_M, layers=(layer,), vocabulary=vocabulary)


def plan(
    *models: GgufFacts, tokens: int = 200, outputs: int = 100, shards: int = 99, is_small: bool = False
) -> DecodingPlan:
    return plan_decoding(
        models, tokens_per_sequence=tokens, outputs_per_sequence=outputs, shards=shards, cores=8, is_small=is_small
    )


def test_a_small_model_gets_a_decoder_for_each_core_and_a_large_one_all_cores_for_one() -> None:
    small = plan(make_facts(4 * 2**10))
    assert (small.decoders, small.threads, small.sequences) == (8, 1, 16)
    large = plan(make_facts(128 * 2**10), tokens=500)
    assert (large.decoders, large.threads, large.sequences) == (1, 8, 16)
    huge = plan(make_facts(128 * 2**10), tokens=100_000)
    assert (huge.decoders, huge.threads, huge.sequences) == (1, 8, 1)


def test_the_state_of_recurrent_layers_takes_memory_too() -> None:
    found = plan(make_facts(0, state_bytes=2**24))
    assert (found.decoders, found.threads, found.sequences) == (4, 2, 16)


def test_no_core_is_idle_where_there_are_few_shards() -> None:
    found = plan(make_facts(4 * 2**10), shards=2)
    assert (found.decoders, found.threads) == (2, 4)


def test_a_small_models_decoder_never_gets_two_threads() -> None:
    found = plan(make_facts(4 * 2**10), shards=2, is_small=True)
    assert (found.decoders, found.threads) == (2, 1)


def test_shards_do_not_depend_on_the_machine_and_are_smaller_for_few_rows_of_a_small_model() -> None:
    rows = range(70)
    assert [len(shard) for shard in cut_shards(rows, is_small=False)] == [32, 32, 6]
    assert [len(shard) for shard in cut_shards(rows, is_small=True)] == [9] * 7 + [7]
    assert [row for shard in cut_shards(rows, is_small=True) for row in shard] == list(rows)
    assert [len(shard) for shard in cut_shards(rows[:20], is_small=True)] == [8, 8, 4]
    assert {len(shard) for shard in cut_shards(range(3200), is_small=True)} == {32}


def test_logits_of_a_large_vocabulary_leave_fewer_decoders() -> None:
    # 441 tokens go into a batch, and its logits take 256 MiB twice.
    found = plan(make_facts(2**10, vocabulary=151_936), outputs=500)
    assert (found.decoders, found.threads) == (4, 2)
    assert plan(make_facts(2**10, vocabulary=151_936), outputs=1).decoders == 7


def test_models_that_are_read_together_share_the_memory() -> None:
    one, vocabulary = make_facts(32 * 2**10), make_facts(2**10, vocabulary=151_936)
    assert [plan(*[one] * count).decoders for count in (1, 2, 4)] == [8, 4, 2]
    assert [plan(*[vocabulary] * count, outputs=500).decoders for count in (1, 2, 4, 9)] == [4, 2, 1, 1]
