"""The token contract between the trained tokenizer and the GGUF."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_pipeline.errors import ConversionError
from ft_pipeline.quantization.adversarial import ADVERSARIAL_TEXTS, list_texts
from ft_pipeline.quantization.llama_library import open_vocabulary
from ft_pipeline.quantization.llama_reader import LlamaReader
from ft_pipeline.quantization.parity import ParityReport, compare_tokens, require_parity
from ft_pipeline.quantization.references import build_references
from ft_pipeline.quantization.trained_tokenizer import TrainedTokenizer
from ft_pipeline_tests.quantization.conftest import CONVERSATION, copy_model
from ft_pipeline_tests.quantization.vocabularies import convert_vocabulary, make_sentencepiece_base
from ft_pipeline_tests.tiny_model import CHATML

_UNNORMALIZED = ({"role": "user", "content": "cafe\u0301"}, {"role": "assistant", "content": "yes"})


@pytest.fixture(scope="module")
def reader(vocabulary: Path) -> Iterator[LlamaReader]:
    """llama.cpp with that vocabulary open."""
    with open_vocabulary(vocabulary) as opened, LlamaReader(opened) as reader:
        yield reader


def test_every_text_gives_the_trained_ids(vocabulary: Path, trained: TrainedTokenizer) -> None:
    report = compare_tokens(vocabulary, trained, build_references(trained, [CONVERSATION]))
    assert report.holds
    assert not report.known
    assert report.renderings > 2 * sum(map(len, ADVERSARIAL_TEXTS.values()))
    assert report.tokens > 10_000
    assert report.bos_tokens == 1


def test_special_tokens_are_tried_in_every_position(trained: TrainedTokenizer) -> None:
    texts = list_texts(trained.special_tokens)
    for token in trained.special_tokens:
        for text in (
            token,
            f" {token}",
            f"{token} ",
            f"a{token}b",
            f"\n{token}",
            f"{token}\n\n",
            token[1:],
            token[:-1],
        ):
            assert text in texts


@settings(max_examples=1000, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_gives_the_trained_ids(reader: LlamaReader, trained: TrainedTokenizer, text: str) -> None:
    begun = f"<s>{text}"
    assert reader.encode(begun) == trained.encode(begun)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["<s>", "<|im_end|>", "</s>", " ", "  ", "\r\n", "sky", "▁", "é", "😀", "<0x0A>"])))
def test_any_mixture_of_special_tokens_and_words_gives_the_trained_ids(
    reader: LlamaReader, trained: TrainedTokenizer, parts: list[str]
) -> None:
    messages = [{"role": "user", "content": "".join(parts)}]
    text = trained.render(messages, add_generation_prompt=True)
    assert reader.render(messages, add_generation_prompt=True) == text
    assert reader.encode(text) == trained.encode(text)


def test_ids_are_those_that_training_sees(model: Path, trained: TrainedTokenizer) -> None:
    from ft_pipeline.datasets.contract import TokenContract
    from ft_pipeline.datasets.tokenizer import load_tokenizer

    whole, prompt = build_references(trained, [CONVERSATION])[:2]
    (row,) = TokenContract(load_tokenizer(model), max_row_tokens=512).tokenize([(CONVERSATION, None)])  # type: ignore[list-item]
    # Training cuts what follows the last end-of-turn token.
    assert list(whole.ids)[: len(row.input_ids.tolist())] == row.input_ids.tolist()
    assert row.input_ids.tolist()[: len(prompt.ids)] == list(prompt.ids)


def test_reads_a_sentencepiece_vocabulary_as_it_was_trained(tmp_path: Path) -> None:
    report = _report_sentencepiece(tmp_path, "bpe")
    assert report.holds
    assert not report.known
    assert report.bos_tokens == 1


def test_finds_out_that_llama_cpp_reads_a_unigram_vocabulary_otherwise(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"of \d+ renderings differ: near "):
        require_parity(_report_sentencepiece(tmp_path, "unigram"))


def test_tells_a_normalizing_tokenizer_from_a_wrong_one(vocabulary: Path, model: Path, tmp_path: Path) -> None:
    def normalize(spec: dict[str, Any]) -> None:
        spec["normalizer"]["normalizers"].insert(0, {"type": "NFC"})

    trained = _with_tokenizer(model, tmp_path, normalize)
    report = compare_tokens(vocabulary, trained, build_references(trained, [CONVERSATION, _UNNORMALIZED]))
    require_parity(report)
    (known,) = report.known
    assert known.reason == "the tokenizer brings text to Unicode's NFC, llama.cpp reads it as it is"
    assert known.given == 2
    assert known.renderings > known.given
    (words,) = report.describe_known()
    assert "(2 of them of the data set's own conversations) give other ids in llama.cpp" in words


def test_tells_a_control_token_that_training_spells_out(vocabulary: Path, model: Path, tmp_path: Path) -> None:
    def spell_out(spec: dict[str, Any]) -> None:
        spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] != "</s>"]

    trained = _with_tokenizer(model, tmp_path, spell_out, pad_token="<unk>")
    report = compare_tokens(vocabulary, trained, build_references(trained, [CONVERSATION]))
    require_parity(report)
    (known,) = report.known
    assert known.reason.endswith("where the trained tokenizer spells it out: '</s>'")
    assert known.given == 0


def test_refuses_a_control_token_of_the_template_that_training_spells_out(
    vocabulary: Path, model: Path, tmp_path: Path
) -> None:
    def spell_out(spec: dict[str, Any]) -> None:
        spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] != "<|im_start|>"]

    trained = _with_tokenizer(model, tmp_path, spell_out)
    references = build_references(trained, [CONVERSATION])
    report = compare_tokens(vocabulary, trained, references)
    assert not report.known
    with pytest.raises(ConversionError, match=rf"{len(references)} of {len(references)} renderings differ"):
        require_parity(report)


def test_refuses_a_vocabulary_that_ends_prompts_with_eos(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"ends a prompt with EOS, .* \(set add_eos_token to false in"):
        require_parity(_report_sentencepiece(tmp_path, "bpe", add_eos_token=True))


def test_an_ordinary_added_token_after_an_answer_need_not_end_it(model: Path, tmp_path: Path) -> None:
    def add(spec: dict[str, Any]) -> None:
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        spec["added_tokens"].append({"id": _next_id(spec), "content": "<|end_response|>", **plain})

    other = copy_model(model, tmp_path / "model")
    _change_tokenizer(other, add)
    template = CHATML.replace(
        "+ '<|im_end|>", "+ ('<|end_response|>' if m['role'] == 'assistant' else '') + '<|im_end|>"
    )
    (other / "chat_template.jinja").write_text(template, encoding="utf-8")
    trained = TrainedTokenizer(other)
    references = build_references(trained, [CONVERSATION])
    assert "<|end_response|><|im_end|>" in references[0].text
    require_parity(compare_tokens(convert_vocabulary(other, tmp_path / "vocabulary.gguf"), trained, references))


def test_conversations_that_the_template_refuses_are_left_out(model: Path, tmp_path: Path) -> None:
    strict = "{% for m in messages %}{% if not m['content'] %}{{ raise_exception('empty') }}{% endif %}{% endfor %}"
    trained = TrainedTokenizer(_with_template(model, tmp_path, strict + CHATML))
    assert all(message["content"] for reference in build_references(trained, []) for message in reference.messages)


def test_shows_the_first_differences(vocabulary: Path, model: Path, tmp_path: Path) -> None:
    trained = _with_tokenizer(model, tmp_path, lambda spec: spec["model"]["merges"].reverse())
    report = compare_tokens(vocabulary, trained, build_references(trained, [CONVERSATION]))
    assert len(report.differences) == 3
    near = r"near '.*?the sky is blu': at id 16 training has \[\d+ 'as' \d+ 's' .*?\], llama\.cpp \[\d+ '"
    with pytest.raises(ConversionError, match=rf"renderings differ: {near}.*; near .*; near "):
        require_parity(report)


def test_shows_where_the_template_renders_otherwise(vocabulary: Path, trained: TrainedTokenizer) -> None:
    references = build_references(trained, [CONVERSATION])
    references[0] = replace(references[0], text=references[0].text.replace("blue", "grey"))
    report = compare_tokens(vocabulary, trained, references)
    shown = r"renders 1 of \d+ conversations otherwise, first at character \d+: training has '.*grey.*', .* '.*blue.*'"
    with pytest.raises(ConversionError, match=shown):
        require_parity(report)


def test_counts_what_programs_without_jinja_write_otherwise(vocabulary: Path, trained: TrainedTokenizer) -> None:
    report = compare_tokens(vocabulary, trained, build_references(trained, [CONVERSATION]))
    assert report.built_in_different == 0


def test_refuses_another_template(vocabulary: Path, model: Path, tmp_path: Path) -> None:
    other = _with_template(model, tmp_path, CHATML.replace("m['role']", "m['role'] + ':'"))
    with pytest.raises(ConversionError, match="its chat template is not the trained one; its template renders"):
        _require(vocabulary, other)


def test_refuses_a_bos_that_training_did_not_have(vocabulary: Path, model: Path, tmp_path: Path) -> None:
    other = _with_template(model, tmp_path, CHATML.replace("{{ bos_token }}", ""))
    with pytest.raises(ConversionError, match=r"begins with 1 BOS and was trained with 0 \(set add_bos_token to false"):
        _require(vocabulary, other)


def test_refuses_two_bos(vocabulary: Path, model: Path, tmp_path: Path) -> None:
    other = _with_template(model, tmp_path, "{{ bos_token }}" + CHATML)
    with pytest.raises(ConversionError, match="it was trained with 2 BOS"):
        _require(vocabulary, other)


def test_refuses_an_end_of_turn_that_does_not_stop_llama_cpp(vocabulary: Path, model: Path, tmp_path: Path) -> None:
    other = copy_model(model, tmp_path / "model")
    _configure(other, eos_token="<|im_start|>")
    with pytest.raises(ConversionError, match=r"does not stop at '<\|im_start\|>' \(id 3\)"):
        _require(vocabulary, other)


def test_refuses_a_special_token_that_takes_blanks_along(vocabulary: Path, model: Path, tmp_path: Path) -> None:
    def strip(spec: dict[str, Any]) -> None:
        for token in spec["added_tokens"]:
            token["rstrip"] = token["content"] == "<|im_end|>"

    trained = _with_tokenizer(model, tmp_path, strip)
    with pytest.raises(ConversionError, match=r"drops the blanks after '<\|im_end\|>'; .* 'phi-3' in their name"):
        require_parity(compare_tokens(vocabulary, trained, build_references(trained, [CONVERSATION])))


def test_refuses_a_model_without_a_template(model: Path, tmp_path: Path) -> None:
    other = copy_model(model, tmp_path / "model")
    (other / "chat_template.jinja").unlink()
    with pytest.raises(ConversionError, match=r"carries the trained chat template; .*model has none"):
        TrainedTokenizer(other)


def _report_sentencepiece(tmp_path: Path, kind: str, **config: Any) -> ParityReport:
    base = make_sentencepiece_base(tmp_path / "base", kind, **config)
    trained = TrainedTokenizer(base)
    gguf_file = convert_vocabulary(base, tmp_path / "vocabulary.gguf")
    return compare_tokens(gguf_file, trained, build_references(trained, [CONVERSATION]))


def _with_template(model: Path, tmp_path: Path, template: str) -> Path:
    other = copy_model(model, tmp_path / "model")
    (other / "chat_template.jinja").write_text(template, encoding="utf-8")
    return other


def _with_tokenizer(
    model: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], **config: str
) -> TrainedTokenizer:
    other = copy_model(model, tmp_path / "model")
    _change_tokenizer(other, change)
    _configure(other, **config)
    return TrainedTokenizer(other)


def _change_tokenizer(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text(encoding="utf-8"))
    change(spec)
    path.write_text(json.dumps(spec), encoding="utf-8")


def _next_id(spec: dict[str, Any]) -> int:
    return 1 + max(int(i) for i in (*spec["model"]["vocab"].values(), *(token["id"] for token in spec["added_tokens"])))


def _configure(folder: Path, **fields: str) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def _require(gguf_file: Path, folder: Path) -> None:
    trained = TrainedTokenizer(folder)
    require_parity(compare_tokens(gguf_file, trained, build_references(trained, [CONVERSATION])))


def test_a_template_that_tells_the_date_reads_the_same_on_any_day(model: Path, tmp_path: Path) -> None:
    dated = CHATML.replace("{{ bos_token }}", "{{ bos_token }}{{ strftime_now('%d %b %Y') }}")
    other = _with_template(model, tmp_path, dated)
    gguf = convert_vocabulary(other, tmp_path / "vocabulary.gguf")
    trained = TrainedTokenizer(other)
    references = build_references(trained, [CONVERSATION])
    assert "01 Jan 2025" in references[0].text
    assert compare_tokens(gguf, trained, references).holds
