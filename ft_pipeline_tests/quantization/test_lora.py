"""The adapter as a LoRA GGUF: llama.cpp's logits with it are PEFT's, or there is none."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.quantization.convert import Conversion, default_converter
from ft_pipeline.quantization.lora import LoraNotExpressible, convert_adapter
from ft_pipeline.quantization.runtime_files import write_lora
from ft_pipeline_tests.merging.tiny_adapter import make_adapter, make_base
from ft_pipeline_tests.tiny_model import make_tokenizer

IDS = [1, *range(10, 40)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    # llama.cpp wants as many rows in the embedding as there are tokens.
    return make_base(folder / "base", tie_word_embeddings=False, vocab_size=make_tokenizer(folder / "tokenizer"))


@pytest.fixture(scope="module")
def base_gguf(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lora") / "base.gguf"
    with Conversion(base, path, "base", default_converter()) as conversion:
        conversion.wait()
    return path


@pytest.mark.parametrize(
    "lora",
    [{"r": 4, "lora_alpha": 8}, {"r": 8, "lora_alpha": 8, "use_rslora": True}, {"rank_pattern": {"q_proj": 2}}],
    ids=["lora", "rslora", "ranks"],
)
def test_llama_cpp_computes_with_it_what_peft_does(
    lora: dict[str, Any], base: Path, base_gguf: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter", base, **lora)
    convert_adapter(adapter, base, tmp_path / "lora.gguf", default_converter())
    wanted, found = _logits_of_peft(base, adapter), _logits_of_llama(base_gguf, tmp_path / "lora.gguf")
    plain = _logits_of_llama(base_gguf, None)
    assert np.abs(found - wanted).max() < 0.02 * wanted.std()
    assert np.abs(plain - wanted).max() > 0.2 * wanted.std()


@pytest.mark.parametrize(
    ("lora", "reason"),
    [
        ({"use_dora": True}, r"has a magnitude of its own \(DoRA\)"),
        ({"modules_to_save": ["lm_head"]}, r"lm_head\.weight is trained whole \(modules_to_save\)"),
        ({"alpha_pattern": {"q_proj": 32}}, r"one alpha for all tensors; .* would need 8 and .*q_proj\.weight 32"),
        ({"use_rslora": True, "rank_pattern": {"q_proj": 16}}, "one alpha for all tensors"),
    ],
    ids=["dora", "whole", "alphas", "rslora-ranks"],
)
def test_what_it_cannot_hold_is_told_and_not_written(
    lora: dict[str, Any], reason: str, base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter, outfile = make_adapter(tmp_path / "adapter", base, **lora), tmp_path / "lora.gguf"
    with pytest.raises(LoraNotExpressible, match=reason):
        convert_adapter(adapter, base, outfile, default_converter())
    assert not write_lora(adapter, base, outfile, None, LogReporter(logging.getLogger("lora")))
    assert "the adapter alone is not shipped as a GGUF: a LoRA GGUF" in caplog.text
    assert not outfile.exists()


def _logits_of_peft(base: Path, adapter: Path) -> np.ndarray[Any, Any]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        found: np.ndarray[Any, Any] = (
            PeftModel.from_pretrained(plain, str(adapter))(torch.tensor([IDS])).logits[0].numpy()
        )
    return found


def _logits_of_llama(gguf: Path, lora: Path | None) -> np.ndarray[Any, Any]:
    from llama_cpp import Llama

    model = Llama(
        str(gguf), lora_path=str(lora) if lora else None, n_ctx=64, logits_all=True, verbose=False, n_gpu_layers=0
    )
    try:
        model.eval(IDS)
        return np.array(model.scores[: len(IDS)])
    finally:
        model.close()
