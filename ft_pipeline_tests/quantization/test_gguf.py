"""The stage from a model folder to GGUF files and a Modelfile."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ft_pipeline.errors import ConversionError
from ft_pipeline.quantization import gguf
from ft_pipeline.quantization.gguf import GgufRequest, gguf_file_name
from ft_pipeline.quantization.llama_library import load_fully, open_vocabulary
from ft_pipeline.quantization.turns import TemplateShapeError
from ft_pipeline_tests.quantization.conftest import Build, Built


def test_writes_a_file_per_type_and_a_modelfile(built: Built) -> None:
    names = {path.name for path in built.folder.iterdir()}
    assert names == {"demo-Q4_K_M.gguf", "demo-Q8_0.gguf", "demo-F16.gguf", "Modelfile"}
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
    assert [row["fallback_tensors"] for row in rows] == [0, 0, 0]
    assert 16 < float(rows[2]["bits_per_weight"] or 0) < 18
    assert built.summary.figures["size_bytes"] == rows[0]["size_bytes"]
    assert built.summary.figures["parity_conversations"] == 1
    assert built.summary.figures["bos_tokens"] == 1
    assert not built.summary.failed


def test_the_modelfile_is_of_the_first_type(built: Built) -> None:
    text = (built.folder / "Modelfile").read_text(encoding="utf-8")
    assert text.startswith('FROM ./demo-Q4_K_M.gguf\nTEMPLATE """')
    assert text.endswith('PARAMETER stop "<|im_end|>"\nPARAMETER stop "<|im_start|>"\nPARAMETER num_ctx 512\n')
    assert "<s>" not in text, "llama.cpp writes BOS by itself"


def test_the_f16_file_goes_when_nobody_asked_for_it(build: Build, out_dir: Path) -> None:
    build(types=("Q8_0",))
    assert sorted(path.name for path in out_dir.iterdir()) == ["Modelfile", "demo-Q8_0.gguf"]


def test_warns_when_ollama_cannot_express_the_template(
    build: Build, out_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise TemplateShapeError("it writes BOS in every turn")

    monkeypatch.setattr(gguf, "derive_turn_format", refuse)
    build(types=("F16",))
    assert "cannot be written as Ollama's TEMPLATE: it writes BOS in every turn" in caplog.text
    assert (out_dir / "Modelfile").read_text(encoding="utf-8") == (
        'FROM ./demo-F16.gguf\nPARAMETER stop "<|im_end|>"\nPARAMETER num_ctx 512\n'
    )


def test_refuses_a_file_with_another_name(build: Build) -> None:
    with pytest.raises(ConversionError, match="must be named 'other' in its metadata, is 'demo'"):
        build(types=("F16",), name="other")


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"types": ("Q4_K_X",)}, "unknown quantization types: Q4_K_X"),
        ({"types": ("Q8_0", "Q8_0")}, "stands twice"),
        ({"types": ()}, "at least 1 item"),
        ({"name": "../demo"}, "should match pattern"),
        ({"extra": 1}, "not permitted"),
    ],
)
def test_refuses_a_wrong_request(changes: dict[str, object], rule: str) -> None:
    fields = {"model": Path("m"), "types": ("Q8_0",), "name": "demo", "context_tokens": 512, "out_dir": Path("o")}
    with pytest.raises(ValidationError, match=rule):
        GgufRequest.model_validate({**fields, **changes})
