"""The model card: what a model is and where it comes from, said safely."""

from __future__ import annotations

from ft_pipeline.quantization.model_card import write_model_card
from ft_pipeline.summary import Scalar
from ft_pipeline_tests.quantization.provenance import make_provenance

FILES: list[dict[str, Scalar]] = [
    {
        "type": "Q4_K_M",
        "file": "mine-Q4_K_M.gguf",
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
        "| Q4\\_K\\_M | mine-Q4\\_K\\_M.gguf | 1,234,567 | 1,234,560 | 4.9 | yes |",
        "`mine-lora-F16.gguf` is the adapter alone",
        f"| revision of the base | {'a' * 40} |",
        f"| data \\(fingerprint\\) | {'d' * 24} |",
        "| loss on held-out rows \\(nats per token\\) | 0.1235 |",
        "| LoRA rank, alpha | 16, 32 |",
        "`llama-server -m mine-Q4_K_M.gguf --jinja`",
    ):
        assert said in card


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


def test_no_folder_of_the_machine_gets_into_the_card() -> None:
    provenance = make_provenance(base_name="/home/me/secret/base", base_revision=None, base_identity="b" * 24)
    assert "secret" not in write_model_card(provenance, FILES, None)


def test_ollama_is_named_where_there_is_a_modelfile() -> None:
    recipe = {"quantization": {"ollama": True}}
    assert "ollama create" in write_model_card(make_provenance(recipe=recipe), FILES, None)
    assert "ollama" not in write_model_card(make_provenance(), FILES, None)
