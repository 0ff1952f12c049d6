from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.llama_decoder import Decoder
from ft_pipeline.evaluation.llama_model import LlamaModel

# llama.cpp takes 256.
TOO_MANY = 300


def fail(model: LlamaModel) -> str:
    decoder = Decoder(model, sequences=TOO_MANY, tokens_per_sequence=256, threads=1)
    with pytest.raises(EvaluationError) as caught, decoder:
        pass
    return str(caught.value)


def test_each_of_several_open_models_hears_its_own_failure(random_gguf: Path) -> None:
    with LlamaModel(random_gguf) as first, LlamaModel(random_gguf) as second:
        assert "n_seq_max must be <= 256" in fail(first)
        assert "n_seq_max must be <= 256" in fail(second)
        assert second.log.explain() == first.log.explain()


def test_a_model_is_heard_after_an_earlier_one_was_closed(random_gguf: Path) -> None:
    with ExitStack() as stack:
        first = ExitStack()
        first.enter_context(LlamaModel(random_gguf))
        second = stack.enter_context(LlamaModel(random_gguf))
        first.close()
        assert "n_seq_max must be <= 256" in fail(second)


def test_a_former_complaint_is_not_told_again(random_gguf: Path) -> None:
    with LlamaModel(random_gguf) as model:
        fail(model)
        with Decoder(model, sequences=1, tokens_per_sequence=256, threads=1):
            assert "n_seq_max" not in model.log.explain()
