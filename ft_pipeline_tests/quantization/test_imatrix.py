"""Importance under the names of a GGUF, in llama.cpp's quantizer and its file, and against llama.cpp's own tool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ft_pipeline.errors import ConversionError, CorruptArtifact
from ft_pipeline.finetuning.importance import IMPORTANCE_FILE, Importance, find_matrices, listening, write_importance
from ft_pipeline.quantization.imatrix import read_imatrix_gguf, read_importance, to_gguf_names, write_imatrix_gguf
from ft_pipeline.quantization.quantize import quantize_gguf

_FIXTURES = Path(__file__).parent / "fixtures"
_NAMES = [f"self_attn.{kind}_proj" for kind in "qkvo"] + [f"mlp.{kind}_proj" for kind in ("gate", "up", "down")]


def _make_importance(columns: int = 256, more: dict[str, Any] | None = None) -> Importance:
    """For the Llama of `tiny_model`, random."""
    rng = np.random.default_rng(1)
    values = {
        f"model.layers.0.{name}.weight": rng.exponential(size=columns * (2 if "down" in name else 1)).astype(np.float32)
        for name in _NAMES
    }
    values["lm_head.weight"] = np.ones(columns, np.float32)
    return Importance(values | (more or {}), tokens=1000, rows=10)


def _measure(folder: Path, rows: list[list[int]]) -> Importance:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad(), listening(find_matrices(model)) as squares:
        for row in rows:
            squares.lengths = [len(row)]
            model(torch.tensor([row]))
    return Importance(squares.means(), sum(map(len, rows)), len(rows))


def _write_names(path: Path, theirs: dict[str, Any]) -> Path:
    """A GGUF of the demo's base with one row of each matrix."""
    from gguf import GGUFWriter

    writer: Any = GGUFWriter(path, "llama")
    writer.add_block_count(4)
    for name, values in theirs.items():
        writer.add_tensor(name, np.zeros((1, len(values)), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_hooks_find_what_llama_cpps_own_tool_finds(project: Path, tmp_path: Path) -> None:
    """On the demo's base: `python -m benchmarks.imatrix --tool llama-imatrix --record` has written the fixture.

    It is the tool's file of 4 chunks of 128 tokens from the f16 GGUF, and the ids of each chunk, BOS first. A base that
    is trained anew needs it recorded anew.
    """
    theirs = read_imatrix_gguf(_FIXTURES / "demo.imatrix.gguf")
    rows = json.loads((_FIXTURES / "demo.ids.json").read_text(encoding="utf-8"))
    ours = to_gguf_names(
        _measure(project / "data" / "base_model", rows), _write_names(tmp_path / "names.gguf", theirs), pytest.fail
    )
    assert set(ours) == set(theirs)
    assert len(theirs) == 4 * 7
    differences = np.concatenate([np.abs(ours[name] / values - 1) for name, values in theirs.items()])
    assert np.median(differences) < 0.001
    assert differences.max() < 0.01


def test_values_get_the_names_of_the_gguf(f16: Path) -> None:
    importance = _make_importance()
    found = to_gguf_names(importance, f16, pytest.fail)
    assert sorted(found) == [
        "blk.0.attn_k.weight",
        "blk.0.attn_output.weight",
        "blk.0.attn_q.weight",
        "blk.0.attn_v.weight",
        "blk.0.ffn_down.weight",
        "blk.0.ffn_gate.weight",
        "blk.0.ffn_up.weight",
    ]
    assert found["blk.0.ffn_down.weight"] is importance.values["model.layers.0.mlp.down_proj.weight"]


def test_an_output_head_of_its_own_has_its_values(tmp_path: Path) -> None:
    values = np.ones(256, np.float32)
    names = _write_names(tmp_path / "names.gguf", {"output.weight": values})
    found = to_gguf_names(Importance({"lm_head.weight": values}, tokens=1, rows=1), names, pytest.fail)
    assert list(found) == ["output.weight"]


def test_values_without_a_tensor_are_told_of(f16: Path) -> None:
    told: list[str] = []
    more = {name: np.ones(256, np.float32) for name in ("model.layers.0.strange.weight", "x.weight")}
    to_gguf_names(_make_importance(more=more), f16, told.append)
    assert told[0].startswith("2 matrices are quantized without their importance")
    assert "model.layers.0.strange.weight, x.weight" in told[0]


def test_importance_of_another_model_is_refused(f16: Path) -> None:
    with pytest.raises(ConversionError, match=r"q_proj\.weight has 128 columns, blk\.0\.attn_q\.weight of .* has 256"):
        to_gguf_names(_make_importance(columns=128), f16, pytest.fail)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"not a GGUF")
    with pytest.raises(ConversionError, match=r"it refuses .*a\.gguf"):
        to_gguf_names(_make_importance(), tmp_path / "a.gguf", pytest.fail)


def test_the_quantizer_keeps_important_columns_closer(f16: Path, tmp_path: Path) -> None:
    """Of the squared error that the importance weighs, some is gone; of the plain one, more is there."""
    values = to_gguf_names(_make_importance(), f16, pytest.fail)
    exact = _read_matrix(f16)
    errors = {}
    for kind, importance in (("without", None), ("with", values)):
        file = quantize_gguf(f16, tmp_path / f"{kind}.gguf", "Q2_K", importance=importance)
        errors[kind] = ((_read_matrix(file.path) - exact) ** 2).mean(axis=0)
    weights = values["blk.0.attn_q.weight"]
    assert (errors["with"] * weights).sum() < 0.9 * (errors["without"] * weights).sum()


def _read_matrix(path: Path) -> Any:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    tensor = next(tensor for tensor in GGUFReader(path).tensors if tensor.name == "blk.0.attn_q.weight")
    return dequantize(tensor.data, tensor.tensor_type)


def test_llama_cpps_file_keeps_the_values(tmp_path: Path) -> None:
    values = {"blk.0.attn_q.weight": np.arange(1, 257, dtype=np.float32), "output.weight": np.ones(3, np.float32)}
    write_imatrix_gguf(tmp_path / "imatrix.gguf", values, tokens=1300, dataset="tickets")
    found = read_imatrix_gguf(tmp_path / "imatrix.gguf")
    assert set(found) == set(values)
    for name, wanted in values.items():
        assert found[name] == pytest.approx(wanted, rel=1e-6)


def test_llama_cpps_file_is_built_as_the_tool_builds_it(tmp_path: Path) -> None:
    from gguf import GGUFReader

    recorded = GGUFReader(_FIXTURES / "demo.imatrix.gguf")
    write_imatrix_gguf(
        tmp_path / "imatrix.gguf", read_imatrix_gguf(_FIXTURES / "demo.imatrix.gguf"), tokens=512, dataset="demo.txt"
    )
    written = GGUFReader(tmp_path / "imatrix.gguf")
    assert {name: field.types for name, field in written.fields.items()} == {
        name: field.types for name, field in recorded.fields.items()
    }
    assert {tensor.name: (tensor.shape.tolist(), tensor.tensor_type) for tensor in written.tensors} == {
        tensor.name: (tensor.shape.tolist(), tensor.tensor_type) for tensor in recorded.tensors
    }


def test_an_adapter_without_importance_has_none(tmp_path: Path) -> None:
    assert read_importance(tmp_path) is None


def test_damaged_importance_is_named(tmp_path: Path) -> None:
    write_importance(tmp_path, _make_importance())
    path = tmp_path / IMPORTANCE_FILE
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CorruptArtifact, match=rf"{IMPORTANCE_FILE} must be whole"):
        read_importance(tmp_path)
