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
from ft_pipeline.quantization.gguf import GgufRequest, build_gguf
from ft_pipeline.quantization.trained_tokenizer import TrainedTokenizer
from ft_pipeline.summary import Summary
from ft_pipeline_tests.tiny_model import make_model, make_tokenizer

CONVERSATION = (
    {"role": "user", "content": "what is the colour of the sky"},
    {"role": "assistant", "content": "the sky is blue"},
)
# Stands in for llama.cpp's converter: hands out a GGUF that the real one made, without its ten seconds of imports.
_STAND_IN = """
import shutil, sys
shutil.copyfile(r"{source}", sys.argv[sys.argv.index("--outfile") + 1])
"""

Build = Callable[..., Summary]


@dataclass(frozen=True)
class Built:
    """What one run of the whole stage gave."""

    folder: Path
    summary: Summary


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
def built(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The stage run once with llama.cpp's own converter."""
    folder = tmp_path_factory.mktemp("quantization") / "gguf"
    folder.mkdir()
    request = _request(model, folder, types=("Q4_K_M", "Q8_0", "F16"), parity_conversations=(CONVERSATION,))
    return Built(folder, build_gguf(request, LogReporter(logging.getLogger("gguf"))))


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
    """Run the stage in no time: the conversion is a copy of the f16 GGUF."""
    tree = make_converter(tmp_path / "converter", _STAND_IN.format(source=f16))
    out_dir = tmp_path / "out"
    out_dir.mkdir()

    def run(**changes: Any) -> Summary:
        request = _request(changes.pop("model", model), out_dir, **{"converter": tree, **changes})
        return build_gguf(request, LogReporter(logging.getLogger("gguf")))

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
    defaults = {"model": model, "types": ("Q8_0",), "name": "demo", "context_tokens": 512, "out_dir": out_dir}
    return GgufRequest.model_validate({**defaults, **fields})
