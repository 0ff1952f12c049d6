"""A disk that becomes full in the middle of a stage: one error, nothing half made, and what was there is intact."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.merging.merge import MergeRequest
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.quantization.convert_stage import ConvertRequest, convert_model
from ft_pipeline.quantization.gguf import GgufRequest
from ft_pipeline.recipe import QuantizationSection
from ft_pipeline_tests.merging.tiny_adapter import make_adapter, make_base
from ft_pipeline_tests.small_disk import build_on_small_disk, can_mount
from ft_pipeline_tests.tiny_model import make_model, make_tokenizer

pytestmark = pytest.mark.skipif(not can_mount(), reason="this machine lets nobody mount a small disk")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 1.3 MB in float16."""
    folder = tmp_path_factory.mktemp("model")
    return make_model(folder, make_tokenizer(folder))


def _assert_nothing_half_made(found: dict[str, Any], words: str) -> None:
    assert found["raised"] == "DiskSpaceError", found
    assert re.search(words, found["message"])
    assert "set FT_PIPELINE_ARTIFACTS to another disk" in found["message"]
    assert {path.partition("/")[0] for path in found["left"]} == {"earlier", "_locks"}


@pytest.mark.parametrize("kilobytes", [64, 150])
def test_while_the_merge_writes(kilobytes: int, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    request = MergeRequest(base=base, adapter=make_adapter(tmp_path / "adapter", base), out_dir=tmp_path)
    found = build_on_small_disk(tmp_path / "store", kilobytes, "ft_pipeline.merging.merge:merge_adapter", request)
    _assert_nothing_half_made(found, "it became full while .* was written")


@pytest.mark.parametrize("kilobytes", [400, 1000])
def test_while_the_converter_writes(kilobytes: int, model: Path, tmp_path: Path) -> None:
    request = ConvertRequest(model=model, name="tiny", out_dir=tmp_path)
    stage = "ft_pipeline.quantization.convert_stage:convert_model"
    found = build_on_small_disk(tmp_path / "store", kilobytes, stage, request)
    _assert_nothing_half_made(found, "became full while llama.cpp's converter wrote it")


def test_before_the_quantizer_writes(model: Path, tmp_path: Path) -> None:
    convert_model(ConvertRequest(model=model, name="tiny", out_dir=tmp_path), LogReporter(logging.getLogger("convert")))
    request = GgufRequest(
        f16=tmp_path / "tiny-F16.gguf",
        model=model,
        name="tiny",
        settings=QuantizationSection(types=("Q4_K_M",)),
        out_dir=tmp_path,
    )
    found = build_on_small_disk(tmp_path / "store", 400, "ft_pipeline.quantization.gguf:build_gguf", request)
    _assert_nothing_half_made(found, r"tiny-Q4_K_M.gguf in Q4_K_M needs .* short")
