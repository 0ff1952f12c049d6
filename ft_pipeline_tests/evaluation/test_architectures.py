from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ft_pipeline.evaluation.answering import AnswerLimits, Question, answer_chats, find_prefix
from ft_pipeline.evaluation.chat import EncodedChat
from ft_pipeline.evaluation.llama_decoder import Decoder, Piece
from ft_pipeline.evaluation.llama_model import LlamaModel
from ft_pipeline.evaluation.llama_runner import LlamaRunner
from ft_pipeline_tests.evaluation.scored import make_row
from ft_pipeline_tests.evaluation.tiny_architectures import SLIDING_WINDOW, write_gemma2, write_mamba, write_wide_heads
from ft_pipeline_tests.evaluation.tiny_gguf import CONTEXT_TOKENS, END_OF_TURN, TOKENS

Ask = Callable[[Sequence[int], int], list[int]]
# llama.cpp takes </s> for an end too.
_ENDS = (TOKENS.index("</s>"), END_OF_TURN)
WRITERS = {"mamba": write_mamba, "gemma2": write_gemma2, "wide": write_wide_heads}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("architectures")


@pytest.fixture(scope="module", params=WRITERS)
def path(request: pytest.FixtureRequest, folder: Path) -> Path:
    return WRITERS[request.param](folder / f"{request.param}.gguf")


@pytest.fixture(scope="module")
def ask(path: Path) -> Iterator[Ask]:
    """What llama-cpp-python's own class answers to a prompt."""
    from llama_cpp import Llama

    llama: Any = Llama(str(path), n_ctx=CONTEXT_TOKENS, n_threads=1, verbose=False)

    def answer(prompt: Sequence[int], most: int) -> list[int]:
        llama.reset()
        tokens: list[int] = []
        for token in llama.generate(list(prompt), temp=0.0, reset=True):
            tokens.append(int(token))
            if token in _ENDS or len(tokens) == most or len(prompt) + len(tokens) == CONTEXT_TOKENS:
                break
        return tokens

    yield answer
    llama.close()


def make_questions(ask: Ask) -> list[Question]:
    """Longer than a sliding window, with one beginning; the references agree with the answers not at all or in part."""
    generator = np.random.default_rng(3)

    def draw(count: int) -> list[int]:
        return [int(token) for token in generator.integers(5, len(TOKENS), count)]

    beginning = draw(3 * SLIDING_WINDOW)
    questions = [Question(EncodedChat(beginning + draw(5 + n), [*draw(30), END_OF_TURN]), 40) for n in range(4)]
    for agreed in (6, 60):
        prompt = beginning + draw(3)
        questions.append(Question(EncodedChat(prompt, ask(prompt, agreed) + draw(20)), 80))
    return questions


@pytest.mark.parametrize(("sequences", "drafts"), [(1, False), (4, False), (3, True)])
def test_batched_answers_are_those_of_the_library(path: Path, ask: Ask, sequences: int, drafts: bool) -> None:
    questions = make_questions(ask)
    with LlamaModel(path) as model:
        limits = AnswerLimits(CONTEXT_TOKENS, model.vocabulary.ends_generation, drafts and model.can_rewind)
        prefix = find_prefix(questions) if model.can_rewind else []
        with Decoder(model, sequences=sequences, tokens_per_sequence=CONTEXT_TOKENS, threads=1) as decoder:
            answers = answer_chats(decoder, questions, limits, prefix=prefix)
    assert [list(found.tokens) for found in answers] == [ask(one.chat.prompt, one.new_tokens) for one in questions]


def test_a_sliding_window_still_sees_what_lies_before_a_long_wrong_reference(folder: Path) -> None:
    prompt, reference = (np.random.default_rng(5).integers(5, len(TOKENS), count).tolist() for count in (40, 950))
    seen = []
    with LlamaModel(write_gemma2(folder / "long.gguf", context_tokens=1024)) as model:
        for read in (prompt, prompt + reference):
            with Decoder(model, sequences=1, tokens_per_sequence=1024, threads=1) as decoder:
                list(decoder.decode([Piece(0, read, 0, 0)]))
                assert decoder.rewind(0, len(prompt) - 1)
                ((_, logits),) = decoder.decode([Piece(0, prompt[-1:], len(prompt) - 1, 1)])
                seen.append(logits[0].copy())
    np.testing.assert_allclose(seen[1], seen[0], atol=0.05)  # of logits up to 20


def test_the_plan_counts_the_memory_that_llama_cpp_takes(path: Path) -> None:
    with LlamaModel(path) as model:
        taken = len(model.log.buffers)
        with Decoder(model, sequences=3, tokens_per_sequence=CONTEXT_TOKENS, threads=1):
            found = [buffer for buffer in model.log.buffers[taken:] if buffer.kind in ("KV", "RS")]
        # The log rounds each to 0.01 MiB.
        rounding = 5243 * len(found)
        assert sum(buffer.bytes for buffer in found) == pytest.approx(
            3 * model.facts.count_cache(CONTEXT_TOKENS), abs=rounding
        )


def test_a_whole_evaluation_runs(path: Path) -> None:
    with LlamaRunner(path, cores=2) as runner:
        scored = runner.score([make_row(f"what is {n}", "blue", n) for n in range(5)], 6)
    assert all(row.n_tokens and np.isfinite(row.logprob) for row in scored)


def test_only_what_is_recurrent_cannot_go_back(folder: Path) -> None:
    for name, write in WRITERS.items():
        with LlamaModel(write(folder / f"{name}.gguf")) as model:
            assert model.can_rewind == (name != "mamba")
