"""The stages from a model folder to GGUF files and what lies beside them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from ft_pipeline.errors import ConversionError
from ft_pipeline.finetuning.importance import Importance, write_importance
from ft_pipeline.quantization import runtime_files
from ft_pipeline.quantization.files import find_gguf, gguf_file_name
from ft_pipeline.quantization.gguf import GgufRequest
from ft_pipeline.quantization.llama_library import load_fully, open_vocabulary
from ft_pipeline.quantization.turns import TemplateShapeError
from ft_pipeline.recipe import QuantizationSection
from ft_pipeline_tests.merging.tiny_adapter import make_adapter
from ft_pipeline_tests.quantization.conftest import Build, Built, copy_model
from ft_pipeline_tests.quantization.provenance import make_provenance


def test_writes_a_file_per_type_a_modelfile_and_a_card(built: Built) -> None:
    names = {path.name for path in built.folder.iterdir()}
    assert names == {"demo-Q4_K_M.gguf", "demo-Q8_0.gguf", "demo-F16.gguf", "Modelfile", "README.md"}
    sizes = [(built.folder / gguf_file_name("demo", name)).stat().st_size for name in ("Q4_K_M", "Q8_0", "F16")]
    assert sizes == sorted(sizes)


def test_every_file_loads_under_its_name(built: Built) -> None:
    for path in built.folder.glob("*.gguf"):
        assert load_fully(path) == built.summary.figures["parameters"]
        with open_vocabulary(path) as vocabulary:
            assert vocabulary.name == "demo"


def test_summary_lists_the_files_in_the_requests_order(built: Built) -> None:
    rows = built.summary.tables["files"]
    assert [row["type"] for row in rows] == ["Q4_K_M", "Q8_0", "F16"]
    assert all(row["size_bytes"] == (built.folder / str(row["file"])).stat().st_size for row in rows)
    assert all(abs(float(row["size_bytes"] or 0) / float(row["predicted_bytes"] or 1) - 1) < 0.01 for row in rows)
    assert [row["fallback_tensors"] for row in rows] == [0, 0, 0]
    assert 16 < float(rows[2]["bits_per_weight"] or 0) < 18
    assert built.summary.figures["size_bytes"] == rows[0]["size_bytes"]
    assert built.summary.figures["parity_conversations"] == 1
    assert built.summary.figures["bos_tokens"] == 1
    assert not built.summary.failed


def test_what_was_hashed_meanwhile_is_what_lies_there(built: Built) -> None:
    assert set(built.summary.sha256) == {path.name for path in built.folder.glob("*.gguf")}
    for name, sha256 in built.summary.sha256.items():
        assert sha256 == hashlib.sha256((built.folder / name).read_bytes()).hexdigest()
    # Its vocabulary was mended before it was hashed.
    assert built.converted.sha256 == {"demo-F16.gguf": built.summary.sha256["demo-F16.gguf"]}


def test_the_files_say_where_they_come_from(built: Built) -> None:
    from gguf import GGUFReader

    fields = GGUFReader(built.folder / "demo-Q4_K_M.gguf").fields
    assert fields["ft_pipeline.data_fingerprint"].contents() == "d" * 24
    assert fields["ft_pipeline.base"].contents() == f"org/model@{'a' * 40}"


def test_the_modelfile_is_of_the_first_type(built: Built) -> None:
    text = (built.folder / "Modelfile").read_text(encoding="utf-8")
    assert text.startswith('FROM ./demo-Q4_K_M.gguf\nTEMPLATE """')
    assert "PARAMETER stop" in text
    assert text.endswith("PARAMETER num_ctx 512\n")
    assert "<s>" not in text, "llama.cpp writes BOS by itself"


def test_a_model_that_does_not_ship_has_nothing_beside_it(build: Build, out_dir: Path) -> None:
    build(types=("Q8_0",))
    assert sorted(path.name for path in out_dir.iterdir()) == ["demo-Q8_0.gguf"]


def test_a_wanted_16_bit_file_is_no_second_copy(build: Build, f16: Path, out_dir: Path) -> None:
    build(types=("F16",))
    assert (out_dir / "demo-F16.gguf").samefile(f16)


def test_the_adapter_ships_as_a_gguf_of_its_own(build: Build, out_dir: Path, model: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", model)
    summary = build(types=("Q8_0",), adapter=adapter, base=model, provenance=make_provenance())
    assert summary.files["LoRA"] == "demo-lora-F16.gguf"
    assert (out_dir / "demo-lora-F16.gguf").stat().st_size > 0
    assert "demo-lora-F16.gguf" in (out_dir / "README.md").read_text(encoding="utf-8")


def test_a_large_file_becomes_parts_that_are_checked_and_named_in_the_modelfile(
    build: Build, f16: Path, out_dir: Path
) -> None:
    limit = f16.stat().st_size / 2**30 / 2
    summary = build(types=("F16",), split_gib=limit, provenance=make_provenance())
    (row,) = summary.tables["files"]
    assert row["parts"] == len(list(out_dir.glob("*.gguf"))) > 1
    assert find_gguf(out_dir, "demo", "F16") == out_dir / str(row["file"])
    assert row["size_bytes"] == sum(path.stat().st_size for path in out_dir.glob("*.gguf"))
    modelfile = (out_dir / "Modelfile").read_text(encoding="utf-8")
    assert modelfile.count("FROM ./demo-F16-0000") == row["parts"]
    assert f16.is_file(), "the file that others are made from stays"


def test_other_types_for_some_tensors_make_another_file(build: Build, out_dir: Path) -> None:
    build(types=("Q4_K_M",))
    plain = (out_dir / "demo-Q4_K_M.gguf").stat().st_size
    build(types=("Q4_K_M",), tensor_types={"ffn_down": "q8_0"})
    assert (out_dir / "demo-Q4_K_M.gguf").stat().st_size > plain


def test_a_type_that_gains_from_a_matrix_and_has_none_is_told(
    build: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build(types=("Q4_K_M", "Q8_0"), importance=tmp_path)
    assert "Q4_K_M would gain from an importance matrix, and the training has made none" in caplog.text


def test_never_means_unless_a_type_cannot_be_made_without(build: Build, model: Path, tmp_path: Path) -> None:
    importance = _write_importance(tmp_path, model)
    summary = build(types=("Q4_K_M", "IQ2_XS", "Q8_0"), imatrix="never", importance=importance)
    assert [row["importance_matrix"] for row in summary.tables["files"]] == [False, True, False]
    summary = build(types=("Q4_K_M", "IQ2_XS", "Q8_0"), importance=importance)
    assert [row["importance_matrix"] for row in summary.tables["files"]] == [True, True, False]


def test_a_tensors_type_that_needs_the_matrix_gets_it_in_a_file_that_does_not(
    build: Build, model: Path, out_dir: Path, tmp_path: Path
) -> None:
    from gguf import GGUFReader

    importance = _write_importance(tmp_path, model)
    summary = build(types=("Q8_0",), tensor_types={"ffn_up": "iq3_xxs"}, importance=importance)
    assert summary.tables["files"][0]["importance_matrix"]
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(out_dir / "demo-Q8_0.gguf").tensors}
    assert (types["blk.0.ffn_up.weight"], types["blk.0.ffn_down.weight"]) == ("IQ3_XXS", "Q8_0")


def test_refuses_a_template_that_ollama_cannot_express(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise TemplateShapeError("it writes BOS in every turn")

    monkeypatch.setattr(runtime_files, "derive_turn_format", refuse)
    with pytest.raises(ConversionError, match=r"cannot: it writes BOS in every turn\. Set quantization\.ollama: false"):
        build(types=("F16",), provenance=make_provenance())


def test_writes_no_modelfile_where_none_is_wanted(build: Build, out_dir: Path) -> None:
    build(types=("F16",), ollama=False, provenance=make_provenance())
    assert not (out_dir / "Modelfile").exists()


def test_another_reading_of_conversations_fails_the_check_and_keeps_the_file(
    build: Build, model: Path, out_dir: Path, tmp_path: Path
) -> None:
    other = copy_model(model, tmp_path / "model")
    template = (other / "chat_template.jinja").read_text(encoding="utf-8")
    (other / "chat_template.jinja").write_text(template.replace("m['role']", "m['role'] + ':'"), encoding="utf-8")
    (check,) = build(model=other, types=("F16",)).checks
    assert (check.name, check.passed, check.blocking) == ("token_parity", False, True)
    assert "its chat template is not the trained one" in check.detail
    assert (out_dir / "demo-F16.gguf").is_file()


def test_refuses_a_file_with_another_name(build: Build, f16: Path, tmp_path: Path) -> None:
    os.link(f16, tmp_path / "other-F16.gguf")
    with pytest.raises(ConversionError, match="must be named 'other' in its metadata, is 'demo'"):
        build(types=("F16",), name="other", f16=tmp_path / "other-F16.gguf")


@pytest.mark.parametrize(
    ("changes", "rule"),
    [({"name": "../demo"}, "should match pattern"), ({"extra": 1}, "not permitted")],
)
def test_refuses_a_wrong_request(changes: dict[str, object], rule: str) -> None:
    fields = {"f16": Path("f"), "model": Path("m"), "name": "demo", "out_dir": Path("o")}
    with pytest.raises(ValidationError, match=rule):
        GgufRequest.model_validate({**fields, "settings": QuantizationSection(), **changes})


def _write_importance(folder: Path, model: Path) -> Path:
    """As a training of this model measures it."""
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", "numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - it is no mapping
    values = {
        name: np.linspace(1, 2, shape[1], dtype=np.float32)
        for name, shape in shapes.items()
        if len(shape) == 2 and "embed_tokens" not in name
    }
    write_importance(folder, Importance(values, tokens=512, rows=4))
    return folder
