"""What is found out about an export before training."""

from __future__ import annotations

import json
import logging
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import BaseModelError, ConversionError, DiskSpaceError, EnvironmentMismatch, MemoryBudgetError
from ft_pipeline.finetuning.architecture import read_architecture
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.quantization.convert import Conversion, default_converter
from ft_pipeline.quantization.preflight import ExportCheckRequest, check_export, require_room
from ft_pipeline.quantization.quantize import quantize_gguf
from ft_pipeline.quantization.skeleton import require_loadable, write_skeleton
from ft_pipeline.recipe import QuantizationSection
from ft_pipeline.summary import Summary
from ft_pipeline_tests.quantization.conftest import copy_model, make_converter
from ft_pipeline_tests.quantization.model_folders import make_unknown_tokenizer
from ft_pipeline_tests.quantization.vocabularies import replace_template
from ft_pipeline_tests.tiny_model import CHATML

_TYPES = ("Q4_K_M", "Q8_0")
# Stands in for llama.cpp's converter: hands out a vocabulary that the real one made.
_STAND_IN = """
import shutil, sys
shutil.copyfile(r"{source}", sys.argv[sys.argv.index("--outfile") + 1])
"""
# Answers before the last are shortened.
_FORGETFUL = CHATML.replace(
    "m['content']", "(m['content'] if loop.last or m['role'] != 'assistant' else m['content'][:2])"
)


@pytest.fixture(scope="module")
def checked(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """The stage run once with llama.cpp's own converter."""
    return _check(model, tmp_path_factory.mktemp("preflight"))


@pytest.fixture
def converter(vocabulary: Path, tmp_path: Path) -> Path:
    """A converter that takes no time."""
    return make_converter(tmp_path / "converter", _STAND_IN.format(source=vocabulary))


def test_a_base_that_can_be_exported_passes(checked: Summary) -> None:
    assert {check.name: check.passed for check in checked.checks} == {"can_be_converted": True, "token_parity": True}
    assert checked.figures["bos_tokens"] == 1
    assert checked.figures["known_differences"] == 0
    assert int(checked.figures["parity_tokens"] or 0) > 10_000


def test_predicts_the_files_that_the_quantizer_writes(checked: Summary, model: Path, tmp_path: Path) -> None:
    f16 = tmp_path / "f16.gguf"
    with Conversion(model, f16, "demo", default_converter()) as conversion:
        conversion.wait()
    assert checked.figures["unquantized_bytes"] == pytest.approx(f16.stat().st_size, abs=1024)
    for row in checked.tables["sizes"]:
        written = quantize_gguf(f16, tmp_path / "quantized.gguf", str(row["type"]))
        assert row["predicted_bytes"] == pytest.approx(written.size_bytes, abs=1024)
        assert row["fallback_tensors"] == len(written.fallbacks) == 0


def test_leaves_no_file_behind(model: Path, converter: Path, tmp_path: Path) -> None:
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    _check(model, out_dir, converter)
    with pytest.raises(ConversionError):
        _check(_with_template(model, tmp_path, "{{ bos_token }}" + CHATML), out_dir, converter)
    assert not list(out_dir.iterdir())


def test_refuses_an_unknown_tokenizer(model: Path, tmp_path: Path) -> None:
    other = copy_model(model, tmp_path / "model")
    make_unknown_tokenizer(other)
    with pytest.raises(ConversionError, match="BPE pre-tokenizer was not recognized"):
        _check(other, tmp_path)


def test_refuses_an_architecture_that_the_converter_does_not_know(model: Path, tmp_path: Path) -> None:
    other = _with_config(model, tmp_path, architectures=["NobodysForCausalLM"])
    with pytest.raises(ConversionError, match=r"does not know the architecture.*NobodysForCausalLM is not supported"):
        _check(other, tmp_path)


def test_refuses_a_family_that_cannot_be_trained(model: Path, converter: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="got model_type 'bert'"):
        _check(_with_config(model, tmp_path, model_type="bert"), tmp_path, converter)


def test_refuses_a_damaged_config(model: Path, converter: Path, tmp_path: Path) -> None:
    other = copy_model(model, tmp_path / "model")
    (other / "config.json").write_text('{"model_type": ', encoding="utf-8")
    with pytest.raises(BaseModelError, match=r"a base must have a config\.json that is JSON; .*Fetch it again"):
        _check(other, tmp_path, converter)
    (other / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(BaseModelError, match=r"config\.json must hold an object; .*config\.json: a list\. Fetch"):
        _check(other, tmp_path, converter)


def test_refuses_a_converter_of_another_version(model: Path, tmp_path: Path) -> None:
    tree = make_converter(tmp_path / "converter", "", release="0.0.1")
    with pytest.raises(EnvironmentMismatch, match=r"of llama-cpp-python 0\.0\.1"):
        _check(model, tmp_path, tree)


def test_finds_a_double_bos_before_training(model: Path, converter: Path, tmp_path: Path) -> None:
    other = _with_template(model, tmp_path, "{{ bos_token }}" + CHATML)
    with pytest.raises(ConversionError, match="it was trained with 2 BOS"):
        _check(other, tmp_path, converter)


def test_finds_other_tokens_before_training(model: Path, converter: Path, tmp_path: Path) -> None:
    other = copy_model(model, tmp_path / "model")
    path = other / "tokenizer.json"
    spec = json.loads(path.read_text(encoding="utf-8"))
    spec["model"]["merges"].reverse()
    path.write_text(json.dumps(spec), encoding="utf-8")
    with pytest.raises(ConversionError, match=r"\d+ of \d+ renderings differ: near "):
        _check(other, tmp_path, converter)


def test_a_template_that_ollama_cannot_express_needs_the_recipes_word(
    model: Path, vocabulary: Path, tmp_path: Path
) -> None:
    other = _with_template(model, tmp_path, _FORGETFUL)
    converted = replace_template(vocabulary, tmp_path / "forgetful.gguf", _FORGETFUL)
    tree = make_converter(tmp_path / "converter", _STAND_IN.format(source=converted))
    with pytest.raises(ConversionError, match=r"Set quantization\.ollama: false"):
        _check(other, tmp_path, tree)
    assert not _check(other, tmp_path, tree, ollama=False).failed


def test_a_system_message_that_a_modelfile_cannot_hold_is_refused(model: Path, converter: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"quantization\.system"):
        _check(model, tmp_path, converter, system="ring\x07")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"tensor_types": {"ffn_dwon": "q8_0", "ffn_up": "q8_0"}},
            r"pattern of quantization\.tensor_types must be found .*; 'ffn_dwon' is in none\. .* near are ffn_down",
        ),
        ({"tensor_types": {"output_norm": "q8_0"}}, "'output_norm' is in none"),
        (
            {"tensor_types": {".*": "iq2_xs"}},
            r"\(token_embd\.weight as iq2_xs, .* let quantization\.tensor_types leave",
        ),
        ({"split_gib": 0.0001}, r"must hold its largest tensor .* in Q4_K_M \S+ has [\d,]+ bytes, .* Raise quant"),
    ],
    ids=["nowhere", "only a norm", "needs what is not measured", "small parts"],
)
def test_refuses_what_the_quantizer_could_not_make(
    settings: dict[str, Any], message: str, model: Path, converter: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError, match=message):
        _check(model, tmp_path, converter, **settings)


def test_takes_a_pattern_that_only_python_knows(model: Path, converter: Path, tmp_path: Path) -> None:
    plain = _check(model, tmp_path, converter).tables["sizes"][0]["predicted_bytes"]
    given = _check(model, tmp_path, converter, tensor_types={"(?<=ffn_)up": "q8_0"}).tables["sizes"][0]
    assert int(given["predicted_bytes"] or 0) > int(plain or 0)


def test_takes_a_tensor_type_that_the_training_measures_for(model: Path, converter: Path, tmp_path: Path) -> None:
    checked = _check(model, tmp_path, converter, tensor_types={"ffn_up": "iq3_xxs"})
    assert [row["type"] for row in checked.tables["sizes"]] == list(_TYPES)


def test_tells_of_patterns_that_change_nothing(
    model: Path, converter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    patterns = {"ffn": "q8_0", "ffn_down": "q6_k", "attn": "q8_0"}
    with caplog.at_level(logging.WARNING, logger="preflight"):
        _check(model, tmp_path, converter, types=("Q4_K_M", "F16", "Q8_0", "BF16"), tensor_types=patterns)
    hidden, alike = sorted(words for words in caplog.messages if "tensor_types" in words)
    assert hidden.startswith("'ffn_down' in quantization.tensor_types changes nothing: ")
    assert alike.startswith("quantization.tensor_types change nothing in F16, BF16: ")


def test_tells_of_rows_that_k_quants_cannot_hold(
    model: Path, vocabulary: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = _with_config(model, tmp_path, intermediate_size=320)
    narrow = tmp_path / "narrow.gguf"
    key = b"llama.feed_forward_length" + struct.pack("<I", 4)
    narrow.write_bytes(vocabulary.read_bytes().replace(key + struct.pack("<I", 512), key + struct.pack("<I", 320)))
    converter = make_converter(tmp_path / "converter", _STAND_IN.format(source=narrow))
    with caplog.at_level(logging.WARNING, logger="preflight"):
        found = _check(other, tmp_path, converter)
    four, eight = found.tables["sizes"]
    assert (four["fallback_tensors"], eight["fallback_tensors"]) == (1, 0)
    assert re.search("Q4_K_M: 1 tensors of this base have rows that are no multiple of .* take q[58]_0", caplog.text)


def test_llama_cpp_refuses_tensors_of_another_shape(model: Path, vocabulary: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    skeleton = tmp_path / "skeleton.gguf"
    write_skeleton(vocabulary, skeleton, read_architecture(config), "f16")
    require_loadable(skeleton)
    write_skeleton(vocabulary, skeleton, read_architecture(config | {"intermediate_size": 768}), "f16")
    with pytest.raises(
        ConversionError, match=r"refuses its tensors: .*wrong shape.*config\.json and tokenizer must be"
    ):
        require_loadable(skeleton)


def test_a_skeleton_takes_no_room(model: Path, vocabulary: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8")) | {"num_hidden_layers": 40}
    skeleton = tmp_path / "skeleton.gguf"
    write_skeleton(vocabulary, skeleton, read_architecture(config), "f16")
    assert skeleton.stat().st_size > 40 * 2**20
    assert skeleton.stat().st_blocks * 512 < 2**20


def test_a_disk_and_a_memory_that_suffice_pass(checked: Summary, tmp_path: Path) -> None:
    require_room(tmp_path / "not" / "there", checked)


def test_says_how_much_disk_is_missing(checked: Summary, tmp_path: Path) -> None:
    disk: list[dict[str, Any]] = [
        {"artifact": "base_gguf", "needed_bytes": 10},
        {"artifact": "merged_model", "needed_bytes": 2**60},
    ]
    too_much = checked.model_copy(update={"tables": checked.tables | {"disk": disk}})
    with pytest.raises(DiskSpaceError, match=r"merging, converting and quantizing needs .* GiB short"):
        require_room(tmp_path, too_much, there={"base_gguf"})
    require_room(tmp_path, too_much, there={"merged_model"})


def test_says_how_much_memory_is_missing(checked: Summary, tmp_path: Path) -> None:
    memory: list[dict[str, Any]] = [{"step": "convert", "needed_bytes": 2**60}]
    too_much = checked.model_copy(update={"tables": checked.tables | {"memory": memory}})
    with pytest.raises(MemoryBudgetError, match=r"the step 'convert' of the export takes .* GiB short\. End other"):
        require_room(tmp_path, too_much)


def _check(base: Path, out_dir: Path, converter: Path | None = None, **settings: Any) -> Summary:
    request = ExportCheckRequest(
        base=base,
        name="demo",
        settings=QuantizationSection.model_validate({"types": _TYPES, **settings}),
        out_dir=out_dir,
        converter=converter,
    )
    return check_export(request, LogReporter(logging.getLogger("preflight")))


def _with_template(model: Path, tmp_path: Path, template: str) -> Path:
    other = copy_model(model, tmp_path / "model")
    (other / "chat_template.jinja").write_text(template, encoding="utf-8")
    return other


def _with_config(model: Path, tmp_path: Path, **fields: Any) -> Path:
    other = copy_model(model, tmp_path / "model")
    path = other / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")
    return other
