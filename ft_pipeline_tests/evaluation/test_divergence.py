from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.divergence import Passage, compare_logits, measure_divergence
from ft_pipeline.evaluation.llama_decoder import Decoder, Logits, Piece
from ft_pipeline.evaluation.llama_model import LlamaModel
from ft_pipeline.evaluation.rows import Divergence
from ft_pipeline_tests.evaluation import tiny_gguf
from ft_pipeline_tests.evaluation.tiny_gguf import CONTEXT_TOKENS, TOKENS, make_random_weights, write_gguf

Arrays = npt.NDArray[np.floating[Any]]


@pytest.fixture(scope="module")
def perturbed_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model with a little noise on every matrix, as quantizing leaves it."""
    generator = np.random.default_rng(7)
    weights = {
        name: tensor if tensor.ndim == 1 else (tensor + generator.normal(0, 0.01, tensor.shape)).astype(np.float32)
        for name, tensor in make_random_weights(seed=0).items()
    }
    return write_gguf(tmp_path_factory.mktemp("divergence") / "perturbed.gguf", weights)


@pytest.fixture(scope="module")
def stranger_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has nothing in common with the random one but the vocabulary."""
    return write_gguf(tmp_path_factory.mktemp("divergence") / "stranger.gguf", make_random_weights(seed=1))


@pytest.fixture
def models(random_gguf: Path, perturbed_gguf: Path, stranger_gguf: Path) -> Iterator[list[LlamaModel]]:
    with ExitStack() as stack:
        yield [stack.enter_context(LlamaModel(path)) for path in (random_gguf, perturbed_gguf, stranger_gguf)]


def make_passages(count: int, longest: int = 60) -> list[Passage]:
    generator = np.random.default_rng(3)
    lengths = generator.integers(2, longest + 1, count)
    return [
        Passage([1, *generator.integers(5, len(TOKENS), length - 1).tolist()], int(generator.integers(1, length)))
        for length in lengths
    ]


def log_softmax(logits: Arrays) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def compare_plainly(reference: Arrays, other: Arrays, targets: Sequence[int]) -> Divergence:
    """The definition, in 64 bits."""
    expected, found = log_softmax(reference), log_softmax(other)
    divergences = (np.exp(expected) * (expected - found)).sum(axis=1)
    places = np.arange(len(targets))
    return Divergence(
        tokens=len(targets),
        kl_sum=float(divergences.sum()),
        same_top=int((reference.argmax(axis=1) == other.argmax(axis=1)).sum()),
        logprob=float(found[places, targets].sum()),
        reference_logprob=float(expected[places, targets].sum()),
        kl_max=float(divergences.max()),
    )


def read_logits(path: Path, passages: Sequence[Passage]) -> list[Arrays]:
    """Logits before each scored token, by llama-cpp-python's own high-level class, one passage at a time."""
    from llama_cpp import Llama

    llama = Llama(str(path), n_ctx=CONTEXT_TOKENS, n_threads=1, logits_all=True, verbose=False)
    logits = []
    for passage in passages:
        llama.reset()
        llama.eval(list(passage.tokens))
        end = len(passage.tokens) - 1
        logits.append(llama.scores[end - passage.scored : end].copy())
    llama.close()
    return logits


def assert_close(found: Divergence, expected: Divergence, relative: float, absolute: float = 0.0) -> None:
    assert (found.tokens, found.same_top) == (expected.tokens, expected.same_top)
    for name in ("kl_sum", "kl_max", "logprob", "reference_logprob"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=relative, abs=absolute), name


# -- models --------------------------------------------------------------------------------------------------------


def test_divergence_is_that_of_the_librarys_full_logits(models: list[LlamaModel]) -> None:
    passages = make_passages(40)
    found = measure_divergence(models[0], models[1:], passages, cores=2)
    reference, *others = (read_logits(model.path, passages) for model in models)
    for divergences, logits in zip(found, others, strict=True):
        for divergence, passage, ours, theirs in zip(divergences, passages, reference, logits, strict=True):
            targets = passage.tokens[-passage.scored :]
            # The caches of keys and values have 16 bits, and round otherwise when batches are others.
            assert_close(divergence, compare_plainly(ours, theirs, targets), relative=0.02, absolute=2e-3)


def test_a_model_does_not_diverge_from_itself(models: list[LlamaModel], random_gguf: Path) -> None:
    passages = make_passages(10)
    with LlamaModel(random_gguf) as twin:
        [divergences] = measure_divergence(models[0], [twin], passages)
    for divergence, passage in zip(divergences, passages, strict=True):
        assert (divergence.kl_sum, divergence.kl_max) == (0, 0)
        assert divergence.same_top == divergence.tokens == passage.scored
        assert divergence.logprob == divergence.reference_logprob < 0


def test_a_stranger_diverges_more_than_a_copy_with_noise(models: list[LlamaModel]) -> None:
    near, far = measure_divergence(models[0], models[1:], make_passages(10))
    assert 0 < sum(row.kl_sum for row in near) < sum(row.kl_sum for row in far) / 5
    assert sum(row.same_top for row in near) > sum(row.same_top for row in far)


def test_figures_do_not_depend_on_the_number_of_cores(models: list[LlamaModel]) -> None:
    passages = make_passages(70, longest=30)
    one, three = (measure_divergence(models[0], models[1:], passages, cores=cores) for cores in (1, 3))
    assert one == three


@pytest.mark.parametrize(("layers", "threads"), [(0, 1), (1, 3)])
def test_cores_work_apart_on_small_models_and_together_where_one_is_on_a_gpu(
    models: list[LlamaModel], monkeypatch: pytest.MonkeyPatch, layers: int, threads: int
) -> None:
    seen: set[int] = set()

    class Listener(Decoder):
        def __init__(self, model: LlamaModel, **options: Any) -> None:
            seen.add(options["threads"])
            super().__init__(model, **options)

    monkeypatch.setattr("ft_pipeline.evaluation.divergence.Decoder", Listener)
    models[1].n_gpu_layers = layers
    measure_divergence(models[0], models[1:], make_passages(70, longest=10), cores=3)
    assert seen == {threads}


def test_the_order_of_the_passages_is_that_of_the_results(models: list[LlamaModel]) -> None:
    passages = make_passages(8)
    [forwards], [backwards] = (measure_divergence(models[0], models[1:2], rows) for rows in (passages, passages[::-1]))
    assert [row.tokens for row in forwards] == [passage.scored for passage in passages]
    assert [row.reference_logprob for row in forwards] == pytest.approx(
        [row.reference_logprob for row in backwards[::-1]], rel=1e-3
    )


def test_passages_that_are_split_over_batches_lose_no_token(
    models: list[LlamaModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    passages = [Passage([1, *range(5, 5 + 200)], 199 - n) for n in range(4)]
    [whole] = measure_divergence(models[0], models[1:2], passages)
    monkeypatch.setattr("ft_pipeline.evaluation.llama_decoder._MAX_BATCH_TOKENS", 256)
    parts: list[int] = []
    decode = Decoder.decode

    def listen(decoder: Decoder, pieces: Sequence[Piece]) -> Iterator[tuple[int, Logits]]:
        for index, logits in decode(decoder, pieces):
            parts.append(index)
            yield index, logits

    monkeypatch.setattr(Decoder, "decode", listen)
    [split] = measure_divergence(models[0], models[1:2], passages)
    assert len(parts) > 2 * len(passages)
    for found, expected in zip(split, whole, strict=True):
        assert_close(found, expected, relative=5e-3)


def test_progress_counts_every_passage_once(models: list[LlamaModel]) -> None:
    counts: list[int] = []
    measure_divergence(models[0], models[1:2], make_passages(40, longest=10), on_passages=counts.append)
    assert counts == [8] * 5


def test_an_error_of_whoever_listens_to_the_progress_ends_the_others_too(models: list[LlamaModel]) -> None:
    def refuse(_count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_divergence(models[0], models[1:2], make_passages(100, longest=10), cores=2, on_passages=refuse)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decoder")]


def test_nothing_to_read_and_nobody_to_compare_are_empty_results(models: list[LlamaModel]) -> None:
    assert measure_divergence(models[0], models[1:], []) == [[], []]
    assert measure_divergence(models[0], [], make_passages(1)) == []


def test_a_model_whose_logits_overflow_gives_a_divergence_that_is_no_number(
    models: list[LlamaModel], tmp_path: Path
) -> None:
    weights = make_random_weights(seed=0)
    weights["output_norm.weight"] *= np.float32(1e38)
    with LlamaModel(write_gguf(tmp_path / "broken.gguf", weights)) as broken:
        [[divergence]] = measure_divergence(models[0], [broken], make_passages(1))
    assert math.isnan(divergence.kl_sum)
    assert math.isnan(divergence.kl_max)
    assert math.isnan(divergence.logprob)
    assert divergence.same_top == 0
    assert divergence.reference_logprob < 0


def test_vocabularies_of_different_sizes_are_named(
    models: list[LlamaModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_gguf, "TOKENS", TOKENS[:-1])
    path = write_gguf(tmp_path / "small.gguf", make_random_weights(seed=0))
    with (
        LlamaModel(path) as small,
        pytest.raises(
            EvaluationError, match=rf"same vocabulary; .*small.gguf has {len(TOKENS) - 1} tokens, .*Quantize"
        ),
    ):
        measure_divergence(models[0], [small], make_passages(1))


def test_the_first_token_that_differs_is_named(
    models: list[LlamaModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_gguf, "TOKENS", (*TOKENS[:-1], "no"))
    path = write_gguf(tmp_path / "other.gguf", make_random_weights(seed=0))
    with (
        LlamaModel(path) as other,
        pytest.raises(EvaluationError, match=rf"token {len(TOKENS) - 1} is b'no' in .*other.gguf, b'ok' in"),
    ):
        measure_divergence(models[0], [other], make_passages(1))


@pytest.mark.parametrize(("tokens", "scored"), [([1, 2, 3], 0), ([1, 2, 3], 3), ([1], 1), ([], 0)])
def test_a_passage_has_something_to_score_and_something_before_it(tokens: list[int], scored: int) -> None:
    with pytest.raises(EvaluationError, match=f"got {scored} of {len(tokens)}"):
        Passage(tokens, scored)


# -- logits --------------------------------------------------------------------------------------------------------


def make_logits(tokens: int, vocabulary: int, spread: float, noise: float) -> tuple[Any, Any, Any]:
    generator = np.random.default_rng(5)
    reference = generator.normal(0, spread, (tokens, vocabulary)).astype(np.float32)
    other = reference + generator.normal(0, noise, reference.shape).astype(np.float32)
    return reference, other, generator.integers(0, vocabulary, tokens)


@pytest.mark.parametrize("vocabulary", [3, 4096, 150_000])
@pytest.mark.parametrize("spread", [0.5, 3.0, 12.0])
def test_32_bit_exponentials_cost_no_digit_that_is_shown(vocabulary: int, spread: float) -> None:
    reference, other, targets = make_logits(40, vocabulary, spread, noise=0.1)
    [found] = compare_logits(reference, [other], targets)
    assert_close(found, compare_plainly(reference, other, targets), relative=1e-5, absolute=1e-7 * len(targets))


def test_others_are_compared_as_if_each_were_alone() -> None:
    reference, other, targets = make_logits(50, 5000, 2.0, noise=0.3)
    assert compare_logits(reference, [other, reference, other * 2], targets) == [
        *compare_logits(reference, [other], targets),
        *compare_logits(reference, [reference], targets),
        *compare_logits(reference, [other * 2], targets),
    ]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_logit_that_is_no_number_spoils_the_whole_and_is_no_agreement(bad: float) -> None:
    reference, _, targets = make_logits(50, 5000, 2.0, noise=0.0)
    broken = reference.copy()
    broken[7, 11] = bad
    [found] = compare_logits(reference, [broken], targets)
    assert math.isnan(found.kl_sum)
    assert math.isnan(found.kl_max)
    assert found.same_top == 49
    [both] = compare_logits(broken, [broken], targets)
    assert math.isnan(both.kl_sum)
    assert both.same_top == 49


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.just(2), st.integers(1, 5), st.integers(1, 40)),
        elements=st.floats(-100, 100, width=32),
    ),
    st.data(),
)
def test_divergence_is_never_negative_and_nothing_between_equals(logits: Any, data: st.DataObject) -> None:
    _, tokens, vocabulary = logits.shape
    targets = np.array(data.draw(st.lists(st.integers(0, vocabulary - 1), min_size=tokens, max_size=tokens)))
    found, same = compare_logits(logits[0], [logits[1], logits[0]], targets)
    assert 0 <= found.kl_max <= found.kl_sum + 1e-9
    assert same.kl_sum == 0
    assert same.same_top == tokens
    assert_close(found, compare_plainly(logits[0], logits[1], targets.tolist()), relative=1e-4, absolute=1e-5)
