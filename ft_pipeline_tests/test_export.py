"""What the stages between training and evaluation are asked for; the stages themselves are tested where they are."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ft_pipeline.artifact import ArtifactKey, Written
from ft_pipeline.builder import ArtifactBuilder
from ft_pipeline.errors import DiskSpaceError
from ft_pipeline.export import Export
from ft_pipeline.processes.launcher import StageResult
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.quantization.disk_need import count_export_bytes
from ft_pipeline.quantization.gguf import GgufRequest
from ft_pipeline.recipe import Recipe
from ft_pipeline.run import Run
from ft_pipeline.summary import Summary

_DISK = [{"artifact": name, "needed_bytes": size} for name, size in count_export_bytes(100, [30]).items()]
_CHECKED = Summary(tables={"disk": _DISK, "memory": []})
MakeBuilder = Callable[..., ArtifactBuilder]


@pytest.fixture
def make_builder(tmp_path: Path, tiny_base: Path) -> MakeBuilder:
    """Of a user's project with these settings of the quantization."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows.jsonl").write_text("{}\n")
    shutil.copytree(tiny_base, tmp_path / "base")

    def make(**quantization: Any) -> ArtifactBuilder:
        recipe = {
            "name": "mine",
            "base_model": {"source": "base"},
            "dataset": {"sources": ["data/*.jsonl"], "max_row_tokens": 128},
            "quantization": quantization,
        }
        run = Run(lambda: Recipe.model_validate(recipe), tmp_path, tmp_path / "store", ["one"])
        return ArtifactBuilder(run, LogReporter(logging.getLogger("export")))

    return make


def _put(builder: ArtifactBuilder, key: ArtifactKey, summary: Summary | None = None) -> None:
    builder.store.build(key, lambda _: Written(summary or Summary()))


@pytest.mark.parametrize(
    ("made", "free_bytes"),
    [
        ((), 3 * 100 + 2 * 30),
        (("base_gguf",), 2 * 100 + 30),
        (("base_f16_gguf", "base_gguf", "merged_model"), 100 + 30),
        (("merged_model", "gguf_model", "base_gguf"), 0),
    ],
)
def test_the_disk_must_hold_what_is_not_made_yet(
    made: tuple[str, ...], free_bytes: int, make_builder: MakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = make_builder()
    _put(builder, builder.lineage.export_check, _CHECKED)
    for name in made:
        _put(builder, getattr(builder.lineage, name))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free_bytes))
    assert Export(builder).check().reused
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free_bytes - 1))
    with pytest.raises(DiskSpaceError, match="merging, converting and quantizing needs"):
        Export(builder).check()


@pytest.mark.parametrize(
    ("quantization", "takes_it"),
    [
        ({"types": ["Q4_K_M"]}, False),
        ({"types": ["IQ2_XS", "Q4_K_M"]}, True),
        ({"types": ["Q4_K_M", "IQ2_XS"]}, False),  # the base is made in the type that is gated
        ({"types": ["Q4_K_M"], "tensor_types": {"ffn_up": "iq3_xxs"}}, True),
    ],
)
def test_the_base_takes_the_trainings_matrix_only_for_what_cannot_be_made_without(
    quantization: dict[str, Any], takes_it: bool, make_builder: MakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder, asked = make_builder(**quantization), []

    def run_stage(_function: str, request: Any, **_: Any) -> StageResult:
        asked.append(request)
        return StageResult(Summary(), 0)

    monkeypatch.setattr("ft_pipeline.builder.run_stage", run_stage)
    monkeypatch.setattr("ft_pipeline.export.sample_conversations", lambda _: ())
    for key in (builder.lineage.validated_dataset, builder.lineage.trained_adapter):
        _put(builder, key)
    Export(builder).base_gguf()
    (request,) = [request for request in asked if isinstance(request, GgufRequest)]
    assert request.settings.imatrix == "never"
    assert request.settings.types == (quantization["types"][0],)
    adapter = builder.require(builder.lineage.trained_adapter).path
    assert request.importance == (adapter if takes_it else None)
