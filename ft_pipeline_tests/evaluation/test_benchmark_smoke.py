"""The evaluation's benchmark on a model of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from benchmarks.evaluation import main
from benchmarks.evaluation_model import write_random_gguf
from ft_pipeline.evaluation.llama_decoder import Decoder, Piece
from ft_pipeline.evaluation.llama_model import LlamaModel


def test_random_weights_give_finite_logits_that_are_not_all_alike(tmp_path: Path) -> None:
    gguf = write_random_gguf(tmp_path / "tiny.gguf", "tiny")
    with (
        LlamaModel(gguf) as model,
        Decoder(model, sequences=1, tokens_per_sequence=256, threads=1) as decoder,
    ):
        ids = model.vocabulary.tokenize("I bought two tablets.")
        ((_, logits),) = decoder.decode([Piece(0, ids, 0, 1)])
        assert len(ids) < len("I bought two tablets.")
        assert np.isfinite(logits).all()
        assert 0.1 < logits.std() < 1


def test_every_way_answers_the_same_rows(tmp_path: Path) -> None:
    arguments = ["--shape", "tiny", "--count", "3", "--max-new-tokens", "5", "--repeat", "1", "--part", "speed"]
    done = CliRunner().invoke(main, [*arguments, "--cores", "1", "--results", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    (section,) = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))["sections"]
    assert {way: found["tokens"] for way, found in section["speed"].items()} == dict.fromkeys(
        ("row_by_row", "one_thread", "batched", "drafted"), 15
    )
    assert section["answers"]["drafted"]["equal_prompts"] == 3
    assert "random-tiny-Q4_K_M.gguf" in (tmp_path / "evaluation.md").read_text(encoding="utf-8")
