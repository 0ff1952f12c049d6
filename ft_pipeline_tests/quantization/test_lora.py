"""The adapter as a LoRA GGUF: llama.cpp's logits with it are PEFT's, or there is none."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ft_pipeline.errors import ConversionError, DiskSpaceError
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.quantization.convert import Conversion, default_converter
from ft_pipeline.quantization.lora import LoraNotExpressible, convert_adapter
from ft_pipeline.quantization.runtime_files import write_lora
from ft_pipeline_tests.merging.tiny_adapter import make_adapter, make_base
from ft_pipeline_tests.quantization.file_limit import file_limit
from ft_pipeline_tests.quantization.provenance import SAID_OF_ORIGIN, make_provenance
from ft_pipeline_tests.quantization.vocabularies import make_sentencepiece_base
from ft_pipeline_tests.tiny_model import make_tokenizer

REPORTER = LogReporter(logging.getLogger("lora"))
IDS = [1, *range(10, 40)]
_SAVES_THE_HEAD = pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")


@dataclass(frozen=True)
class Base:
    """A base as transformers reads it, and as llama.cpp does."""

    folder: Path
    gguf: Path


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("llama")
    # llama.cpp wants as many rows in the embedding as there are tokens.
    base = make_base(folder / "base", tie_word_embeddings=False, vocab_size=make_tokenizer(folder / "tokenizer"))
    return _convert(base, folder / "base.gguf")


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("qwen2")
    tokenizer = make_sentencepiece_base(folder / "tokenizer", "bpe")
    size = json.loads((tokenizer / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    base = make_base(folder / "base", "qwen2", tie_word_embeddings=False, vocab_size=size)
    for path in tokenizer.glob("tokenizer*"):
        shutil.copy(path, base)
    return _convert(base, folder / "base.gguf")


@pytest.fixture(scope="module")
def base(llama: Base) -> Path:
    return llama.folder


@pytest.mark.parametrize(
    ("family", "lora"),
    [
        pytest.param("llama", {"r": 4, "lora_alpha": 8}, id="llama"),
        pytest.param("llama", {"r": 8, "lora_alpha": 8, "use_rslora": True}, id="llama-rslora", marks=pytest.mark.long),
        pytest.param("llama", {"rank_pattern": {"q_proj": 2}}, id="llama-ranks", marks=pytest.mark.long),
        pytest.param("qwen2", {"r": 4, "lora_alpha": 8}, id="qwen2", marks=pytest.mark.long),
    ],
)
def test_llama_cpp_computes_with_it_what_peft_does(
    family: str, lora: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    base: Base = request.getfixturevalue(family)
    adapter = make_adapter(tmp_path / "adapter", base.folder, **lora)
    convert_adapter(adapter, base.folder, tmp_path / "lora.gguf", default_converter())
    wanted, found = _logits_of_peft(base.folder, adapter), _logits_of_llama(base.gguf, tmp_path / "lora.gguf")
    plain = _logits_of_llama(base.gguf, None)
    assert np.abs(found - wanted).max() < 0.02 * wanted.std()
    assert np.abs(plain - wanted).max() > 0.2 * wanted.std()


def test_it_says_where_it_comes_from_and_nothing_of_the_machine(base: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    adapter, description = make_adapter(tmp_path / "adapter", base), "---\nlicense: mit\n---\n\t\u2028\x85\U0001f600"
    files = [tmp_path / folder / "mine-lora-F16.gguf" for folder in ("Foo-7B-v2", "other")]
    for file in files:
        file.parent.mkdir()
        convert_adapter(adapter, base, file, default_converter(), make_provenance(description=description))
    assert files[0].read_bytes() == files[1].read_bytes()
    fields = {name: field.contents() for name, field in GGUFReader(files[0]).fields.items() if "general." in name}
    assert fields == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "general.name": "mine-lora-F16",
        "general.description": description,
        **SAID_OF_ORIGIN,
        "general.quantization_version": 2,
    }


@pytest.mark.parametrize(
    ("lora", "reason"),
    [
        ({"use_dora": True}, r"has a magnitude of its own \(DoRA\)"),
        ({"modules_to_save": ["lm_head"]}, r"lm_head\.weight is trained whole \(modules_to_save\)"),
        ({"alpha_pattern": {"q_proj": 32}}, r"one alpha for all tensors; .* would need 8 and .*q_proj\.weight 32"),
        ({"use_rslora": True, "rank_pattern": {"q_proj": 16}}, "one alpha for all tensors"),
        ({"lora_alpha": 0}, "has an alpha of 0, which llama.cpp takes for none"),
    ],
    ids=["dora", "whole", "alphas", "rslora-ranks", "no-alpha"],
)
def test_what_it_cannot_hold_is_told_and_not_written(
    lora: dict[str, Any], reason: str, base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter, outfile = make_adapter(tmp_path / "adapter", base, **lora), tmp_path / "lora.gguf"
    with pytest.raises(LoraNotExpressible, match=reason):
        convert_adapter(adapter, base, outfile, default_converter())
    assert not write_lora(adapter, base, outfile, None, None, REPORTER)
    assert "the adapter alone is not shipped as a GGUF: a LoRA GGUF" in caplog.text
    assert not outfile.exists()


@_SAVES_THE_HEAD
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings=True:UserWarning")
def test_an_output_layer_that_is_the_embedding_too_is_told(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", tie_word_embeddings=True)
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["lm_head"])
    with pytest.raises(LoraNotExpressible, match=r"lm_head\.weight is none, as it is the embedding too"):
        convert_adapter(adapter, base, tmp_path / "lora.gguf", default_converter())


@_SAVES_THE_HEAD
def test_what_the_converter_leaves_out_is_told_and_not_written(tmp_path: Path) -> None:
    gemma = make_base(tmp_path / "base", "gemma2", tie_word_embeddings=False, head_dim=16)
    adapter = make_adapter(tmp_path / "adapter", gemma, target_modules=["lm_head", "q_proj"])
    _edit_weights(adapter, lambda weights: weights.pop("base_model.model.lm_head.base_layer.weight"))
    with pytest.raises(LoraNotExpressible, match=r"converter took 512 of the 2,048 values in LoRA's B"):
        convert_adapter(adapter, gemma, tmp_path / "lora.gguf", default_converter())
    assert not (tmp_path / "lora.gguf").exists()


def test_what_float16_does_not_hold_is_told_and_not_written(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", base)
    _edit_weights(adapter, lambda weights: weights[sorted(weights)[0]].fill_(1e5))
    with pytest.raises(LoraNotExpressible, match=r"blk\.0\..*lora_a of .*adapter has values over 65,504"):
        convert_adapter(adapter, base, tmp_path / "lora.gguf", default_converter())
    assert not (tmp_path / "lora.gguf").exists()


@pytest.mark.parametrize(
    "words",
    [
        "raise NotImplementedError",
        "raise ValueError('Can not map tensor x')",
        "sys.exit('ERROR:lora-to-gguf:Model X is not supported')",
    ],
)
def test_an_adapter_that_the_converter_does_not_take_is_told(
    words: str, base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter, tree = make_adapter(tmp_path / "adapter", base), _make_tree(tmp_path, words)
    assert not write_lora(adapter, base, tmp_path / "lora.gguf", None, tree, REPORTER)
    assert "not shipped as a GGUF: a LoRA GGUF holds what llama.cpp's converter takes; it refuses" in caplog.text
    assert not (tmp_path / "lora.gguf").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        ("import no_such_module", "(?s)exit status 1.*ModuleNotFoundError"),
        ("sys.exit(0)", "exit status 0"),
    ],
    ids=["killed", "broken", "nothing-written"],
)
def test_a_converter_that_is_killed_or_broken_ends_the_stage(
    words: str, reason: str, base: Path, tmp_path: Path
) -> None:
    adapter, tree = make_adapter(tmp_path / "adapter", base), _make_tree(tmp_path, words)
    with pytest.raises(
        ConversionError, match=rf"{reason}(?s:.*)quantization\.lora_gguf: false ships the model without"
    ):
        write_lora(adapter, base, tmp_path / "lora.gguf", None, tree, REPORTER)
    assert not (tmp_path / "lora.gguf").exists()


@pytest.mark.parametrize(
    "missing", [5, pytest.param(500, marks=pytest.mark.long), pytest.param(3000, marks=pytest.mark.long)]
)
def test_a_file_that_the_disk_cuts_off_ends_the_stage(base: Path, tmp_path: Path, missing: int) -> None:
    adapter, outfile = make_adapter(tmp_path / "adapter", base), tmp_path / "lora.gguf"
    assert write_lora(adapter, base, outfile, None, None, REPORTER)
    size = outfile.stat().st_size
    with pytest.raises(DiskSpaceError, match=r"must hold lora\.gguf"), file_limit(size - missing):
        write_lora(adapter, base, outfile, None, None, REPORTER)
    assert not outfile.exists()


def _make_tree(folder: Path, words: str) -> Path:
    tree = folder / "tree"
    tree.mkdir()
    (tree / "convert_lora_to_gguf.py").write_text(f"import os, signal, sys\n{words}\n", encoding="utf-8")
    return tree


def _convert(base: Path, gguf: Path) -> Base:
    with Conversion(base, gguf, "base", default_converter()) as conversion:
        conversion.wait()
    return Base(base, gguf)


def _edit_weights(adapter: Path, change: Callable[[dict[str, Any]], object]) -> None:
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(weights)
    save_file(weights, path)


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
