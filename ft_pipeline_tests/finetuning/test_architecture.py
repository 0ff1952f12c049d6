from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest

from ft_pipeline.base_model import read_config
from ft_pipeline.errors import BaseModelError, TrainingError
from ft_pipeline.finetuning.architecture import count_saved_parameters, find_targets, read_architecture
from ft_pipeline.finetuning.shapes import SHAPES, find_shape

# Odd sizes, so that no two of them can stand for each other.
_SIZES = {
    "hidden_size": 192,
    "intermediate_size": 416,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}
_FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 48}),
    ("mistral", {}),
    ("qwen2", {}),
    ("qwen3", {}),
    ("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    ("gemma2", {}),
    ("gemma3_text", {}),
    ("phi3", {"pad_token_id": 0}),
    ("phi", {}),
]


@pytest.mark.parametrize(("kind", "more"), _FAMILIES, ids=lambda value: value if isinstance(value, str) else len(value))
def test_names_and_counts_are_those_of_transformers_own_class(kind: str, more: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **_SIZES, **more)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = read_architecture(json.loads(config.to_json_string(use_diff=False)))
    assert found.total_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert dict(found.list_tensors()) == {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    linears: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            linears[name.rsplit(".", 1)[-1]].add((module.out_features, module.in_features))
    assert {name: {shape} for name, shape in found.linears.items()} == linears


@pytest.mark.parametrize("kind", ["qwen3", "gemma2", "gemma3_text"])
def test_what_a_config_leaves_out_is_what_transformers_assumes(kind: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {name: _SIZES[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    sizes |= {"num_attention_heads": 8, "num_key_value_heads": 4}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
    given = sizes | {"model_type": kind} | ({"vocab_size": 151_936} if kind == "qwen3" else {})
    assert read_architecture(given).total_parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_model_that_reads_images_is_read_by_its_text_part() -> None:
    text = dict(_SIZES) | {"model_type": "gemma3_text", "head_dim": 32}
    nested = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 9999}}
    assert read_architecture(nested) == read_architecture(text)


def test_the_demo_base_is_read(project: Any) -> None:
    found = read_architecture(read_config(project / "data/base_model"))
    assert found.family == "Llama"
    assert 3e6 <= found.total_parameters <= 8e6


def test_a_family_that_is_not_known_is_an_error_that_lists_those_that_are() -> None:
    with pytest.raises(BaseModelError, match=r"got model_type 'mamba' .* Known: gemma2, gemma3_text, llama, mistral"):
        read_architecture({"model_type": "mamba"})


@pytest.mark.parametrize("value", [None, 0, -1, "4096", True])
def test_a_size_that_is_no_positive_integer_is_named(value: object) -> None:
    with pytest.raises(BaseModelError, match=r"hidden_size in the base's config.json must be a positive integer, got"):
        read_architecture(dict(_SIZES) | {"model_type": "llama", "hidden_size": value})


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llama-3.1-8b", 8.03),
        ("llama-2-7b", 6.74),
        ("llama-2-13b", 13.02),
        ("mistral-7b-v0.3", 7.25),
        ("qwen2.5-7b", 7.62),
        ("qwen3-8b", 8.19),
        ("qwen2.5-14b", 14.77),
        ("yi-34b", 34.39),
        ("llama-3.1-70b", 70.55),
    ],
)
def test_the_shapes_have_the_published_number_of_parameters(name: str, billions: float) -> None:
    assert read_architecture(SHAPES[name]).total_parameters / 1e9 == pytest.approx(billions, abs=0.006)


def test_a_shape_is_found_by_the_hub_name() -> None:
    assert find_shape("meta-llama/Meta-Llama-3.1-8B-Instruct") is SHAPES["llama-3.1-8b"]
    assert find_shape("mistralai/Mistral-7B-Instruct-v0.3") is SHAPES["mistral-7b-instruct-v0.3"]
    assert find_shape("someone/else") is None


_LLAMA = read_architecture(SHAPES["llama-3.1-8b"])
_PHI3 = read_architecture({"model_type": "phi3"} | _SIZES)


def test_all_linear_is_every_linear_layer_of_a_decoder_layer() -> None:
    assert find_targets(_PHI3, "all-linear", 8) == {
        "qkv_proj": (320, 192),
        "o_proj": (192, 192),
        "gate_up_proj": (832, 192),
        "down_proj": (192, 416),
    }


def test_a_target_that_the_model_lacks_is_an_error_that_lists_what_it_has() -> None:
    with pytest.raises(TrainingError) as caught:
        find_targets(_PHI3, ("q_proj", "o_proj", "v_proj"), 8)
    assert "got q_proj, v_proj: a Phi3 model has down_proj, gate_up_proj, o_proj, qkv_proj." in str(caught.value)
    assert "'all-linear' takes them all" in str(caught.value)


def test_a_misspelt_target_is_answered_with_the_right_one() -> None:
    with pytest.raises(TrainingError, match=r"Did you mean 'gate_proj' instead of 'gate_prj'\?"):
        find_targets(_LLAMA, ("gate_prj",), 8)


def test_a_rank_above_the_hidden_size_is_an_error() -> None:
    assert find_targets(_LLAMA, ("q_proj",), 4096) == {"q_proj": (4096, 4096)}
    with pytest.raises(TrainingError, match=r"rank must be at most the base's hidden size \(4096\), got 4097"):
        find_targets(_LLAMA, ("q_proj",), 4097)


def test_the_output_layer_is_no_target() -> None:
    with pytest.raises(TrainingError, match=r"got lm_head: .* trained whole, by training\.lora\.modules_to_save"):
        find_targets(_LLAMA, ("q_proj", "lm_head"), 8)


def test_modules_that_are_trained_whole_are_counted() -> None:
    assert count_saved_parameters(_LLAMA, ()) == 0
    assert count_saved_parameters(_LLAMA, ("lm_head",)) == 128_256 * 4096
    assert count_saved_parameters(_LLAMA, ("v_proj",)) == 32 * 1024 * 4096
    assert count_saved_parameters(_LLAMA, ("input_layernorm",)) == 32 * 4096
    with pytest.raises(
        TrainingError, match=r"modules_to_save must be modules of the model, got head: a Llama model has"
    ):
        count_saved_parameters(_LLAMA, ("head",))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text", "phi3", "phi"])
def test_a_module_that_is_trained_whole_is_what_peft_makes_of_its_name(kind: str) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **_SIZES, pad_token_id=0, tie_word_embeddings=False)
    architecture = read_architecture(config.to_dict())
    target = next(iter(architecture.linears))
    for name in {tensor.split(".")[-2] for tensor, _ in architecture.list_tensors()} - {target}:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
            adapted = get_peft_model(model, LoraConfig(r=1, target_modules=[target], modules_to_save=[name]))
        saved = sum(weight.numel() for key, weight in adapted.named_parameters() if "modules_to_save" in key)
        assert count_saved_parameters(architecture, (name,)) == saved, name


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_tied_embeddings_are_not_trained_whole(name: str) -> None:
    tied = read_architecture(dict(_SIZES) | {"model_type": "qwen2", "tie_word_embeddings": True})
    with pytest.raises(TrainingError, match=rf"uses twice: {name} is input embedding and output layer in one"):
        count_saved_parameters(tied, ("norm", name))
    assert count_saved_parameters(tied, ("norm",)) == 7 * 192
