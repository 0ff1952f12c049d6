"""Fixtures of the quantization's tests: one real conversion, shared."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.quantization.convert_stage import ConvertRequest, convert_model
from ft_pipeline.quantization.gguf import GgufRequest, build_gguf
from ft_pipeline.quantization.trained_tokenizer import TrainedTokenizer
from ft_pipeline.recipe import QuantizationSection
from ft_pipeline.summary import Summary
from ft_pipeline_tests.quantization.provenance import make_provenance
from ft_pipeline_tests.quantization.vocabularies import convert_vocabulary
from ft_pipeline_tests.tiny_model import make_model, make_tokenizer

CONVERSATION = (
    {"role": "user", "content": "what is the colour of the sky"},
    {"role": "assistant", "content": "the sky is blue"},
)
REPORTER = LogReporter(logging.getLogger("gguf"))

Build = Callable[..., Summary]


@dataclass(frozen=True)
class Built:
    """What one run of conversion and quantization gave."""

    folder: Path
    summary: Summary
    converted: Summary


@pytest.fixture(scope="session", autouse=True)
def _libraries() -> None:
    """Import what the tests use; what third parties warn of while they are imported is not ours to fail on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import gguf
        import llama_cpp
        import transformers

        # Loaded on first use otherwise.
        assert gguf.GGUFReader
        assert llama_cpp.Llama
        assert transformers.LlamaForCausalLM
        assert transformers.AutoTokenizer


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float16 Llama with a tokenizer that has no tokenizer.model."""
    folder = tmp_path_factory.mktemp("quantization") / "model"
    return make_model(folder, make_tokenizer(folder))


@pytest.fixture(scope="session")
def vocabulary(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That model's vocabulary as a GGUF."""
    return convert_vocabulary(model, tmp_path_factory.mktemp("quantization") / "vocabulary.gguf")


@pytest.fixture(scope="session")
def built(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both stages run once with llama.cpp's own converter."""
    unquantized, folder = tmp_path_factory.mktemp("f16"), tmp_path_factory.mktemp("gguf")
    converted = convert_model(ConvertRequest(model=model, name="demo", out_dir=unquantized), REPORTER)
    request = _request(
        model,
        folder,
        f16=unquantized / "demo-F16.gguf",
        settings=QuantizationSection(types=("Q4_K_M", "Q8_0", "F16"), context_tokens=512),
        parity_conversations=(CONVERSATION,),
        provenance=make_provenance(name="demo"),
    )
    return Built(folder, build_gguf(request, REPORTER), converted)


@pytest.fixture(scope="session")
def f16(built: Built) -> Path:
    """The f16 GGUF of the model."""
    return built.folder / "demo-F16.gguf"


@pytest.fixture(scope="session")
def trained(model: Path) -> TrainedTokenizer:
    """The tokenizer as trained."""
    return TrainedTokenizer(model)


@pytest.fixture
def build(model: Path, f16: Path, tmp_path: Path) -> Build:
    """Run the stage on the f16 GGUF of the model."""
    out_dir = tmp_path / "out"
    out_dir.mkdir()

    def run(**changes: Any) -> Summary:
        settings = {name: changes.pop(name) for name in [*changes] if name in QuantizationSection.model_fields}
        request = _request(
            changes.pop("model", model),
            out_dir,
            **{"f16": f16, "settings": QuantizationSection.model_validate(settings), **changes},
        )
        return build_gguf(request, REPORTER)

    return run


@pytest.fixture
def out_dir(tmp_path: Path) -> Path:
    """Where `build` writes."""
    return tmp_path / "out"


def make_converter(folder: Path, script: str, release: str | None = None) -> Path:
    """A converter's tree with a script of the test's own."""
    folder.mkdir()
    (folder / "convert_hf_to_gguf.py").write_text(script, encoding="utf-8")
    (folder / "LLAMA_CPP_PYTHON_VERSION").write_text((release or version("llama-cpp-python")) + "\n", encoding="utf-8")
    return folder


def copy_model(model: Path, folder: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(model, folder))


def _request(model: Path, out_dir: Path, **fields: Any) -> GgufRequest:
    return GgufRequest.model_validate({"model": model, "name": "demo", "out_dir": out_dir, **fields})
