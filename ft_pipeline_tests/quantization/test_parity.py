"""The token contract between the trained tokenizer and the GGUF."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ft_pipeline.errors import ConversionError
from ft_pipeline.quantization.parity import ADVERSARIAL_TEXTS, build_references, compare_tokens, require_parity
from ft_pipeline.quantization.trained_tokenizer import TrainedTokenizer
from ft_pipeline_tests.quantization.conftest import CONVERSATION, Build, copy_model
from ft_pipeline_tests.tiny_model import CHATML


def test_every_text_gives_the_trained_ids(f16: Path, trained: TrainedTokenizer) -> None:
    report = compare_tokens(f16, trained, build_references(trained, [CONVERSATION]))
    assert report.holds
    assert report.renderings > 2 * len(ADVERSARIAL_TEXTS)
    assert report.tokens > 1000
    assert report.bos_tokens == 1


def test_ids_are_those_that_training_sees(model: Path, trained: TrainedTokenizer) -> None:
    from ft_pipeline.datasets.contract import TokenContract
    from ft_pipeline.datasets.tokenizer import load_tokenizer

    whole, prompt = build_references(trained, [CONVERSATION])[:2]
    (row,) = TokenContract(load_tokenizer(model), max_row_tokens=512).tokenize([(CONVERSATION, None)])  # type: ignore[list-item]
    # Training cuts what follows the last end-of-turn token.
    assert list(whole.ids)[: len(row.input_ids.tolist())] == row.input_ids.tolist()
    assert row.input_ids.tolist()[: len(prompt.ids)] == list(prompt.ids)


def test_conversations_that_the_template_refuses_are_left_out(model: Path, tmp_path: Path) -> None:
    strict = "{% for m in messages %}{% if not m['content'] %}{{ raise_exception('empty') }}{% endif %}{% endfor %}"
    trained = TrainedTokenizer(_with_template(model, tmp_path, strict + CHATML))
    assert all(message["content"] for reference in build_references(trained, []) for message in reference.messages)


def test_shows_the_first_difference(build: Build, model: Path, tmp_path: Path) -> None:
    other = copy_model(model, tmp_path / "model")
    spec = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    spec["model"]["merges"].reverse()
    (other / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    message = r"renderings differ; '<s><\|im_start\|>user.*: at id \d+ training has \[\d+.*\], llama\.cpp \[\d+"
    with pytest.raises(ConversionError, match=message):
        build(model=other, types=("F16",))


def test_refuses_another_template(f16: Path, model: Path, tmp_path: Path) -> None:
    other = _with_template(model, tmp_path, CHATML.replace("m['role']", "m['role'] + ':'"))
    with pytest.raises(ConversionError, match="its chat template is not the trained one"):
        _require(f16, other)


def test_refuses_a_bos_that_training_did_not_have(f16: Path, model: Path, tmp_path: Path) -> None:
    other = _with_template(model, tmp_path, CHATML.replace("{{ bos_token }}", ""))
    with pytest.raises(ConversionError, match=r"begins with 1 BOS and was trained with 0 \(set add_bos_token to false"):
        _require(f16, other)


def test_refuses_two_bos(f16: Path, model: Path, tmp_path: Path) -> None:
    other = _with_template(model, tmp_path, "{{ bos_token }}" + CHATML)
    with pytest.raises(ConversionError, match="it was trained with 2 BOS"):
        _require(f16, other)


def test_refuses_an_end_of_turn_that_does_not_stop_llama_cpp(f16: Path, model: Path, tmp_path: Path) -> None:
    other = copy_model(model, tmp_path / "model")
    path = other / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"eos_token": "<|im_start|>"}
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ConversionError, match=r"does not stop at '<\|im_start\|>' \(id 3\)"):
        _require(f16, other)


def test_refuses_a_model_without_a_template(model: Path, tmp_path: Path) -> None:
    other = copy_model(model, tmp_path / "model")
    (other / "chat_template.jinja").unlink()
    with pytest.raises(ConversionError, match=r"carries the trained chat template; .*model has none"):
        TrainedTokenizer(other)


def _with_template(model: Path, tmp_path: Path, template: str) -> Path:
    other = copy_model(model, tmp_path / "model")
    (other / "chat_template.jinja").write_text(template, encoding="utf-8")
    return other


def _require(gguf_file: Path, folder: Path) -> None:
    trained = TrainedTokenizer(folder)
    require_parity(compare_tokens(gguf_file, trained, build_references(trained, [CONVERSATION])))
