from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ft_pipeline.errors import EvaluationError, StageCancelled
from ft_pipeline.evaluation.chat import ChatEncoder, EncodedChat
from ft_pipeline.evaluation.greedy import Answer, AnswerLimits, answer_chats
from ft_pipeline.evaluation.llama_decoder import Decoder, Piece
from ft_pipeline.evaluation.llama_model import LlamaModel
from ft_pipeline.evaluation.llama_runner import LlamaRunner, plan_decoding
from ft_pipeline.evaluation.rows import EvaluationRow
from ft_pipeline_tests.evaluation.scored import make_row
from ft_pipeline_tests.evaluation.tiny_gguf import CONTEXT_TOKENS, END_OF_TURN, Say

NEW_TOKENS = 12


def make_rows(count: int) -> list[EvaluationRow]:
    words = ["sky", "blue", "what is the colour", "ok", "a1", "zz top", "quite another one"]
    return [make_row(" ".join(words[: 1 + n % 7]) + f" {n}", words[n % 5] * (1 + n % 3), n) for n in range(count)]


@pytest.fixture(scope="module")
def library(random_gguf: Path) -> Iterator[Any]:
    """llama-cpp-python's own high-level class on the same file: one row at a time."""
    from llama_cpp import Llama

    llama = Llama(str(random_gguf), n_ctx=CONTEXT_TOKENS, n_threads=1, logits_all=True, verbose=False)
    yield llama
    llama.close()


def encode_rows(path: Path, rows: Sequence[EvaluationRow]) -> list[EncodedChat]:
    with LlamaModel(path) as model:
        encoder = ChatEncoder(model)
        return [encoder.encode(row) for row in rows]


def answer_one_by_one(library: Any, prompt: Sequence[int]) -> list[int]:
    library.reset()
    tokens: list[int] = []
    for token in library.generate(list(prompt), temp=0.0, reset=True):
        tokens.append(int(token))
        if token == END_OF_TURN or len(tokens) == NEW_TOKENS:
            break
    return tokens


def log_softmax(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def answer_batched(
    path: Path, chats: Sequence[EncodedChat], sequences: int, *, stop: threading.Event | None = None
) -> list[Answer]:
    with LlamaModel(path) as model:
        limits = AnswerLimits(NEW_TOKENS, model.context_tokens, model.ends_generation)
        with Decoder(model, sequences=sequences, tokens_per_sequence=CONTEXT_TOKENS, threads=1) as decoder:
            return answer_chats(decoder, chats, limits, stop or threading.Event())


@pytest.mark.parametrize("sequences", [1, 3, 8])
def test_batched_answers_are_those_of_the_library_row_by_row(random_gguf: Path, library: Any, sequences: int) -> None:
    chats = encode_rows(random_gguf, make_rows(20))
    answers = answer_batched(random_gguf, chats, sequences)
    assert [list(answer.tokens) for answer in answers] == [answer_one_by_one(library, chat.prompt) for chat in chats]


@pytest.mark.parametrize("agreed", [0, 1, 5, NEW_TOKENS - 1, NEW_TOKENS, NEW_TOKENS + 3])
def test_an_answer_does_not_depend_on_how_far_the_reference_agrees_with_it(
    random_gguf: Path, library: Any, agreed: int
) -> None:
    prompts = [chat.prompt for chat in encode_rows(random_gguf, make_rows(6))]
    expected = [answer_one_by_one(library, prompt) for prompt in prompts]
    drafts = [
        EncodedChat(prompt, [*answer[:agreed], *([7, 8, 9] * 2)])
        for prompt, answer in zip(prompts, expected, strict=True)
    ]
    assert [list(answer.tokens) for answer in answer_batched(random_gguf, drafts, 4)] == expected


def test_a_memory_that_cannot_go_back_in_part_is_filled_anew(
    random_gguf: Path, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = Decoder.rewind
    monkeypatch.setattr(
        Decoder, "rewind", lambda decoder, sequence, tokens: empty(decoder, sequence, 0) and tokens == 0
    )
    chats = encode_rows(random_gguf, make_rows(6))
    answers = answer_batched(random_gguf, chats, 3)
    assert [list(answer.tokens) for answer in answers] == [answer_one_by_one(library, chat.prompt) for chat in chats]


def test_log_likelihood_of_the_reference_is_that_of_the_librarys_full_logits(random_gguf: Path, library: Any) -> None:
    chats = encode_rows(random_gguf, make_rows(10))
    for chat, answer in zip(chats, answer_batched(random_gguf, chats, 4), strict=True):
        whole = [*chat.prompt, *chat.completion]
        library.reset()
        library.eval(whole)
        logprobs = log_softmax(library.scores[: len(whole)])
        places = range(len(chat.prompt) - 1, len(whole) - 1)
        by_hand = sum(logprobs[place, whole[place + 1]] for place in places)
        assert answer.logprob == pytest.approx(by_hand, rel=1e-3)  # the cache has 16 bits


def test_a_sequence_that_is_longer_than_a_batch_gives_the_same_logits_in_parts(random_gguf: Path) -> None:
    tokens = [1, *range(5, 200)]
    with LlamaModel(random_gguf) as model:
        with Decoder(model, sequences=2, tokens_per_sequence=CONTEXT_TOKENS, threads=1) as decoder:
            whole = np.concatenate([logits.copy() for _, logits in decoder.decode([Piece(0, tokens, 0, 50)])])
        with Decoder(model, sequences=2, tokens_per_sequence=CONTEXT_TOKENS, threads=1) as decoder:
            decoder._room = 60
            parts = [(index, logits.copy()) for index, logits in decoder.decode([Piece(1, tokens, 0, 50)])]
    assert len(parts) > 1
    assert {index for index, _ in parts} == {0}
    np.testing.assert_allclose(np.concatenate([logits for _, logits in parts]), whole, atol=0.02)  # of logits up to 20


def test_scores_the_same_twice_and_on_any_number_of_cores(random_gguf: Path) -> None:
    rows = make_rows(70)
    seen: list[int] = []
    with LlamaRunner(random_gguf, cores=1) as runner:
        first = runner.score(rows, NEW_TOKENS, seen.append)
        assert runner.score(rows, NEW_TOKENS) == first
    with LlamaRunner(random_gguf, cores=2) as runner:
        assert runner.score(rows, NEW_TOKENS) == first
    assert [scored.row for scored in first] == rows
    assert sum(seen) == len(rows)


def test_says_what_the_model_says_and_stops_where_it_ends_its_turn(saying: Say) -> None:
    with LlamaRunner(saying(b"blue!")) as runner:
        scored = runner.score([make_row("sky", "blue!"), make_row("sky", "red")], NEW_TOKENS)
    assert [row.prediction for row in scored] == ["blue!", "blue!"]
    assert [row.exact for row in scored] == [True, False]
    assert all(row.stopped for row in scored)
    assert [row.n_tokens for row in scored] == [6, 6]


def test_a_model_that_never_stops_is_cut_and_has_not_stopped(saying: Say) -> None:
    with LlamaRunner(saying(b"ab", stops=False)) as runner:
        scored = runner.score([make_row("sky", "ab")], NEW_TOKENS)[0]
    assert scored.prediction == "a" + "b" * (NEW_TOKENS - 1)
    assert not scored.stopped
    assert scored.n_tokens == NEW_TOKENS


def test_an_answer_of_just_the_limit_has_stopped(saying: Say) -> None:
    with LlamaRunner(saying(b"abc")) as runner:
        assert runner.score([make_row("sky", "abc")], 4)[0].stopped
        assert not runner.score([make_row("sky", "abc")], 3)[0].stopped


def test_bytes_that_are_no_utf8_become_replacement_characters(saying: Say) -> None:
    with LlamaRunner(saying(b"a\xff\x1b[")) as runner:
        assert runner.score([make_row("sky", "blue")], NEW_TOKENS)[0].prediction == "a\ufffd\x1b["


def test_a_row_longer_than_the_context_comes_back_with_a_fault(random_gguf: Path) -> None:
    rows = [make_row("sky", "blue"), make_row("x" * CONTEXT_TOKENS, "blue"), make_row("ok", "blue")]
    with LlamaRunner(random_gguf) as runner:
        scored = runner.score(rows, NEW_TOKENS)
    assert [bool(row.fault) for row in scored] == [False, True, False]
    assert "the model's context 256" in scored[1].fault
    assert not scored[1].exact


def test_an_answer_ends_at_the_context_at_the_latest(saying: Say) -> None:
    row = make_row("x" * (CONTEXT_TOKENS - 40), "b")
    with LlamaRunner(saying(b"ab", stops=False)) as runner:
        prompt = len(ChatEncoder(runner.model).encode(row).prompt)
        scored = runner.score([row], 500)[0]
    assert prompt + scored.n_tokens == CONTEXT_TOKENS


def test_control_tokens_in_a_reference_do_not_make_the_answer_longer_than_its_first_stop(saying: Say) -> None:
    with LlamaRunner(saying(b"ab")) as runner:
        scored = runner.score([make_row("sky", "ab<|im_end|>more")], NEW_TOKENS)[0]
    assert scored.prediction == "ab"
    assert scored.stopped


def test_measures_a_speed(random_gguf: Path) -> None:
    with LlamaRunner(random_gguf, cores=1) as runner:
        speed = runner.measure_speed(make_rows(2))
    assert speed.tokens_per_second > 0
    assert speed.threads == 1


def test_stops_when_asked_to(random_gguf: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(StageCancelled):
        answer_batched(random_gguf, encode_rows(random_gguf, make_rows(2)), 1, stop=stop)


def test_an_interrupt_in_the_callers_thread_ends_the_decoders_and_leaves_the_runner_usable(random_gguf: Path) -> None:
    def interrupt(_count: int) -> None:
        raise StageCancelled("asked to stop")

    with LlamaRunner(random_gguf, cores=2) as runner:
        with pytest.raises(StageCancelled, match="asked to stop"):
            runner.score(make_rows(100), NEW_TOKENS, interrupt)
        assert len(runner.score(make_rows(2), NEW_TOKENS)) == 2


def test_says_why_a_file_does_not_load(tmp_path: Path, random_gguf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(random_gguf.read_bytes()[:200_000])
    with (
        pytest.raises(EvaluationError, match=r"refuses .*damaged\.gguf: .*(bounds|read|corrupt)"),
        LlamaRunner(damaged),
    ):
        pass
    assert capfd.readouterr().err == ""


def test_says_which_file_is_missing(tmp_path: Path) -> None:
    with (
        pytest.raises(EvaluationError, match=r"GGUF must exist; .*gone\.gguf does not"),
        LlamaRunner(tmp_path / "gone.gguf"),
    ):
        pass


def test_a_small_model_gets_a_decoder_for_each_core_and_a_large_one_all_cores_for_one() -> None:
    small = plan_decoding(cache_bytes_per_token=4 * 2**10, tokens_per_sequence=200, cores=8)
    assert (small.decoders, small.threads, small.sequences) == (8, 1, 16)
    large = plan_decoding(cache_bytes_per_token=128 * 2**10, tokens_per_sequence=500, cores=8)
    assert (large.decoders, large.threads, large.sequences) == (1, 8, 16)
    huge = plan_decoding(cache_bytes_per_token=128 * 2**10, tokens_per_sequence=100_000, cores=8)
    assert (huge.decoders, huge.threads, huge.sequences) == (1, 8, 1)
