from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from ft_pipeline.errors import EvaluationError, StageCancelled
from ft_pipeline.evaluation.answering import Answer, AnswerLimits, Question, answer_chats, find_prefix
from ft_pipeline.evaluation.chat import ChatEncoder, EncodedChat
from ft_pipeline.evaluation.llama_decoder import Decoder, Piece
from ft_pipeline.evaluation.llama_model import LlamaModel
from ft_pipeline.evaluation.llama_runner import LlamaRunner
from ft_pipeline.evaluation.rows import EvaluationRow
from ft_pipeline.evaluation.shards import Report
from ft_pipeline.recipe_evaluation import SamplingSection
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


@pytest.fixture(scope="module")
def answers_one_by_one(random_gguf: Path, library: Any) -> list[list[int]]:
    """What the library answers to the first twenty rows."""
    return [answer_one_by_one(library, chat.prompt) for chat in encode_rows(random_gguf, make_rows(20))]


def encode_rows(path: Path, rows: Sequence[EvaluationRow]) -> list[EncodedChat]:
    with LlamaModel(path) as model, ChatEncoder(model) as encoder:
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
    path: Path,
    chats: Sequence[EncodedChat],
    sequences: int,
    *,
    report: Report = lambda _count: None,
    drafts: bool = False,
    shares_prefix: bool = False,
) -> list[Answer]:
    questions = [Question(chat, NEW_TOKENS) for chat in chats]
    prefix = find_prefix(questions) if shares_prefix else []
    assert bool(prefix) == shares_prefix
    with LlamaModel(path) as model:
        limits = AnswerLimits(model.context_tokens, model.vocabulary.ends_generation, drafts)
        with Decoder(model, sequences=sequences, tokens_per_sequence=CONTEXT_TOKENS, threads=1) as decoder:
            return answer_chats(decoder, questions, limits, report, prefix)


@pytest.mark.parametrize("shares_prefix", [False, True])
@pytest.mark.parametrize("drafts", [False, True])
@pytest.mark.parametrize("sequences", [1, 3, 8])
def test_batched_answers_are_those_of_the_library_row_by_row(
    random_gguf: Path, answers_one_by_one: list[list[int]], sequences: int, drafts: bool, shares_prefix: bool
) -> None:
    chats = encode_rows(random_gguf, make_rows(20))
    answers = answer_batched(random_gguf, chats, sequences, drafts=drafts, shares_prefix=shares_prefix)
    assert [list(answer.tokens) for answer in answers] == answers_one_by_one


@pytest.mark.parametrize("guesses", [False, True])
@pytest.mark.parametrize("agreed", [0, 1, 5, NEW_TOKENS - 1, NEW_TOKENS, NEW_TOKENS + 3])
def test_an_answer_does_not_depend_on_how_far_the_reference_agrees_with_it(
    random_gguf: Path, answers_one_by_one: list[list[int]], agreed: int, guesses: bool
) -> None:
    prompts = [chat.prompt for chat in encode_rows(random_gguf, make_rows(6))]
    expected = answers_one_by_one[:6]
    drafts = [
        EncodedChat(prompt, [*answer[:agreed], *([7, 8, 9] * 2)])
        for prompt, answer in zip(prompts, expected, strict=True)
    ]
    assert [list(answer.tokens) for answer in answer_batched(random_gguf, drafts, 4, drafts=guesses)] == expected


def test_a_memory_that_cannot_go_back_in_part_is_filled_anew(
    random_gguf: Path, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = Decoder.rewind
    monkeypatch.setattr(
        Decoder, "rewind", lambda decoder, sequence, tokens: empty(decoder, sequence, 0) and tokens == 0
    )
    chats = encode_rows(random_gguf, make_rows(6))
    answers = answer_batched(random_gguf, chats, 3, shares_prefix=True)
    assert [list(answer.tokens) for answer in answers] == [answer_one_by_one(library, chat.prompt) for chat in chats]


def test_log_likelihood_of_the_reference_is_that_of_the_librarys_full_logits(random_gguf: Path, library: Any) -> None:
    chats = encode_rows(random_gguf, make_rows(10))
    for chat, answer in zip(chats, answer_batched(random_gguf, chats, 4, shares_prefix=True), strict=True):
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
        scored = runner.score([row], 500)[0]
    prompt = len(encode_rows(runner.gguf, [row])[0].prompt)
    assert prompt + scored.n_tokens == CONTEXT_TOKENS


def test_control_tokens_in_a_reference_do_not_make_the_answer_longer_than_its_first_stop(saying: Say) -> None:
    with LlamaRunner(saying(b"ab")) as runner:
        scored = runner.score([make_row("sky", "ab<|im_end|>more")], NEW_TOKENS)[0]
    assert scored.prediction == "ab"
    assert scored.stopped


def test_each_row_may_have_a_limit_of_its_own(saying: Say) -> None:
    rows = [make_row("sky", "ab", number, "general" if number else "held_out") for number in range(2)]
    with LlamaRunner(saying(b"ab", stops=False)) as runner:
        scored = runner.score(rows, lambda row: 3 if row.set_name == "general" else 7)
    assert [row.n_tokens for row in scored] == [7, 3]


class Listener(Decoder):
    """Keeps how decoders are made."""

    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, model: LlamaModel, **options: Any) -> None:
        self.made.append(options)
        super().__init__(model, **options)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """How the runner's decoders are made."""
    monkeypatch.setattr("ft_pipeline.evaluation.llama_runner.Decoder", Listener)
    monkeypatch.setattr(Listener, "made", [])
    return Listener.made


def test_guesses_need_no_cell_of_their_own(saying: Say, made: list[dict[str, Any]]) -> None:
    with LlamaRunner(saying(b"ab", stops=False), cores=1) as runner:
        assert runner.score([make_row("sky", "ab")], 500)[0].n_tokens > 200
    assert [options["tokens_per_sequence"] for options in made] == [CONTEXT_TOKENS]


@pytest.mark.parametrize(("small_weights", "threads"), [(2**24, [1, 1, 1]), (0, [4])])
def test_few_rows_keep_all_cores_busy(
    random_gguf: Path,
    made: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    small_weights: int,
    threads: list[int],
) -> None:
    monkeypatch.setattr("ft_pipeline.evaluation.llama_model._SMALL_WEIGHTS", small_weights)
    with LlamaRunner(random_gguf, cores=4) as runner:
        runner.score(make_rows(20), 2)
    assert [options["threads"] for options in made] == threads


def test_rows_of_one_decoder_are_told_as_they_finish(random_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ft_pipeline.evaluation.decoding_plan._LEAST_SHARD_ROWS", 32)
    counts: list[int] = []
    with LlamaRunner(random_gguf, cores=1) as runner:
        runner.score(make_rows(70), 3, counts.append)
    assert sum(counts) == 70
    # A decoder has 16 sequences, and its shard here twice as many rows.
    assert max(counts) <= 16


def test_a_drawn_answer_hangs_on_seed_set_and_row_alone(random_gguf: Path) -> None:
    rows, sampling = make_rows(40), SamplingSection(temperature=1.5, top_k=20)
    with LlamaRunner(random_gguf, cores=2) as runner:
        together = runner.score(rows, NEW_TOKENS, sampling=sampling)
        alone = [runner.score([row], NEW_TOKENS, sampling=sampling)[0] for row in rows[:5]]
        backwards = runner.score(rows[::-1], NEW_TOKENS, sampling=sampling)[::-1]
        other_seed = runner.score(rows, NEW_TOKENS, sampling=sampling.model_copy(update={"seed": 1}))
        greedy = runner.score(rows, NEW_TOKENS)
    texts = [row.prediction for row in together]
    assert [row.prediction for row in alone] == texts[:5]
    assert [row.prediction for row in backwards] == texts
    assert [row.prediction for row in other_seed] != texts
    assert [row.prediction for row in greedy] != texts
    # The reference is read alike.
    assert [row.logprob for row in together] == pytest.approx([row.logprob for row in greedy], rel=1e-3)


def test_the_coldest_draw_is_the_greedy_answer(random_gguf: Path) -> None:
    with LlamaRunner(random_gguf, cores=1) as runner:
        greedy = runner.score(make_rows(10), NEW_TOKENS)
        cold = runner.score(make_rows(10), NEW_TOKENS, sampling=SamplingSection(temperature=0.01))
    assert [row.prediction for row in cold] == [row.prediction for row in greedy]


def test_what_its_listener_raises_ends_it_and_answers_are_counted_as_they_finish(random_gguf: Path) -> None:
    chats = encode_rows(random_gguf, make_rows(5))
    counts: list[int] = []
    answer_batched(random_gguf, chats, 2, report=counts.append)
    assert sum(counts) == 5
    assert max(counts) <= 2

    def refuse(_count: int) -> None:
        raise StageCancelled("asked to stop")

    with pytest.raises(StageCancelled):
        answer_batched(random_gguf, chats, 1, report=refuse)


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
