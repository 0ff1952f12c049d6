"""The model card: what a model is and where it comes from, said safely."""

from __future__ import annotations

import json

import pytest
from markdown_it import MarkdownIt

from ft_pipeline.quantization.model_card import write_model_card
from ft_pipeline.summary import Scalar
from ft_pipeline_tests.quantization.provenance import make_provenance

FILES: list[dict[str, Scalar]] = [
    {
        "type": "Q4_K_M",
        "file": "mine-Q4_K_M.gguf",
        "parts": 1,
        "size_bytes": 1234567,
        "predicted_bytes": 1234560,
        "bits_per_weight": 4.9,
        "importance_matrix": True,
    }
]


def test_the_card_names_base_data_adapter_files_and_figures() -> None:
    card = write_model_card(make_provenance(), FILES, "mine-lora-F16.gguf")
    assert "base_model: org/model\n" in card
    assert "base_model_relation: finetune\n" in card
    assert "library_name: gguf\n" in card
    for said in (
        "| Q4\\_K\\_M | mine-Q4\\_K\\_M.gguf | 1 | 1,234,567 | 1,234,560 | 4.9 | yes |",
        "`mine-lora-F16.gguf` is the adapter alone",
        f"| revision of the base | {'a' * 40} |",
        f"| data \\(fingerprint\\) | {'d' * 24} |",
        "| loss on held-out rows \\(nats per token\\) | 0.1235 |",
        "| LoRA rank, alpha | 16, 32 |",
        "`llama-server -m mine-Q4_K_M.gguf --jinja`",
        "`lms import mine-Q4_K_M.gguf`",
        "A language model fine-tuned with QLoRA,",
        '```json\n{\n  "training": {\n    "epochs": 2.0,',
    ):
        assert said in card
    assert "several parts" not in card


def test_a_base_that_is_a_folder_is_no_link_to_the_hub() -> None:
    card = write_model_card(make_provenance(base_name="data/base_model", base_revision=None), FILES, None)
    assert "base_model:" not in card
    assert "revision of the base" not in card
    assert "adapter alone" not in card


def test_hostile_words_of_a_recipe_stay_words() -> None:
    hostile = "---\nlicense: mit\n---\n<script>alert(1)</script> [x](http://evil) | cell `code`\n# head"
    card = write_model_card(make_provenance(description=hostile), FILES, None)
    front, body = card.split("\n---\n", 1)
    assert "license" not in front
    assert "<script>" not in body.replace("\\<", "")
    assert "\n# head" not in body
    assert "[x](http" not in body
    assert "\\| cell \\`code\\`" in body


@pytest.mark.parametrize(
    "words",
    [
        "- a list",
        "+ a list",
        "1. a list",
        "12) a list",
        "---",
        "# head",
        "> quote",
        "    code",
        "see https://evil.example or www.evil.example",
        "&lt;b&gt; &amp; <b>",
        "*a* __b__ ~~c~~ `d` ![e](f) <http://g> [h]: i",
        "| a |\n| --- |",
        "2.5 million at -3 C",
        "a\n\n---\n\n- b",
    ],
)
def test_a_description_is_one_paragraph_of_just_its_words(words: str) -> None:
    card = write_model_card(make_provenance(description=words), FILES, None)
    body = card.split("\n---\n", 1)[1]
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(body)
    heading = next(place for place, token in enumerate(tokens) if token.type == "heading_close")
    opened, inline, closed = tokens[heading + 1 : heading + 4]
    assert (opened.type, closed.type) == ("paragraph_open", "paragraph_close")
    assert {child.type for child in inline.children or []} <= {"text", "text_special"}
    assert "".join(child.content for child in inline.children or []) == " ".join(words.split())


def test_addresses_are_spelled_so_that_they_are_no_links() -> None:
    card = write_model_card(make_provenance(description="https://evil.example WWW.evil.example"), FILES, None)
    assert "https\\://evil.example WWW\\.evil.example" in card


def test_the_card_of_a_split_model_names_its_parts() -> None:
    first = "mine-Q4_K_M-00001-of-00003.gguf"
    card = write_model_card(make_provenance(), [FILES[0] | {"file": first, "parts": 3}], None)
    assert "mine-Q4\\_K\\_M-00001-of-00003.gguf | 3 | 1,234,567 |" in card
    assert "all of them must lie in one folder, and programs are given the first" in card
    assert "lms import" not in card
    assert "| LM Studio | copy all parts to" in card


def test_the_card_of_a_16_bit_training_says_so() -> None:
    card = write_model_card(make_provenance(recipe={"training": {"load_in_4bit": False}}), FILES, None)
    assert "fine-tuned with LoRA," in card


def test_a_recipe_cannot_end_the_block_that_it_stands_in() -> None:
    recipe = {"name": "x", "quantization": {"system": "a\n```\n# head\u2028b", "ollama": True}}
    tokens = MarkdownIt().parse(write_model_card(make_provenance(recipe=recipe), FILES, None).split("\n---\n", 1)[1])
    (block,) = (token for token in tokens if token.type == "fence")
    assert json.loads(block.content) == {"quantization": recipe["quantization"]}


def test_no_folder_of_the_machine_gets_into_the_card() -> None:
    provenance = make_provenance(base_name="/home/me/secret/base", base_revision=None, base_identity="b" * 24)
    assert "secret" not in write_model_card(provenance, FILES, None)


def test_ollama_is_named_where_there_is_a_modelfile() -> None:
    recipe = {"quantization": {"ollama": True}}
    assert "ollama create" in write_model_card(make_provenance(recipe=recipe), FILES, None)
    assert "ollama" not in write_model_card(make_provenance(), FILES, None)
