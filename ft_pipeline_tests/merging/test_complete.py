"""An adapter that lacks something of what its configuration says was trained, and those that lack nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import ConversionError
from ft_pipeline.merging.adapter import open_adapter
from ft_pipeline.merging.complete import require_complete
from ft_pipeline.merging.shards import Shards, open_shards
from ft_pipeline_tests.merging.tiny_adapter import make_adapter, make_base

# PEFT says that it saves the embedding with an adapter on it; some of these tests are about that.
pytestmark = pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")

LAYERS = 2
UNTIED: dict[str, Any] = {"tie_word_embeddings": False}


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with an output layer of its own."""
    return make_base(tmp_path_factory.mktemp("untied") / "base", **UNTIED)


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        (lambda key: "layers.1." in key, r"lacks model\.layers\.1\.\w+\.\w+_proj, .* and 4 more"),
        (
            lambda key: "q_proj" in key,
            r"lacks model\.layers\.0\.self_attn\.q_proj, model\.layers\.1\.self_attn\.q_proj\.",
        ),
        (lambda key: "0.mlp.up_proj" in key, r"lacks model\.layers\.0\.mlp\.up_proj\. Save or fetch it again"),
        (lambda key: "lm_head" in key, r"lacks lm_head\."),
    ],
    ids=["a layer", "a kind of module", "one module", "a saved module"],
)
def test_what_is_missing_is_named(lost: Callable[[str], bool], named: str, untied: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", untied, modules_to_save=["lm_head"])
    _lose(adapter / "adapter_model.safetensors", lost)
    with pytest.raises(ConversionError, match=named):
        _require(adapter, open_shards(untied))


@pytest.mark.parametrize("targets", [r".*\.(q|v)_proj", r"model\.layers\.\d+\..*(q|up)_proj|lm_head"])
def test_targets_of_one_regular_expression_are_found_too(targets: str, untied: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", untied, target_modules=targets)
    _require(adapter, open_shards(untied))
    _lose(adapter / "adapter_model.safetensors", lambda key: "1.self_attn.q_proj" in key)
    with pytest.raises(ConversionError, match=r"lacks model\.layers\.1\.self_attn\.q_proj\. Save"):
        _require(adapter, open_shards(untied))


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"target_modules": "all-linear"},
        {"target_modules": r"model\.layers\.0\..*\.(q|v)_proj"},
        {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": "layers"},
        {"exclude_modules": ["down_proj"]},
        {"exclude_modules": r".*layers\.1\..*"},
        {"target_modules": ["q_proj", "lm_head", "embed_tokens"]},
        {"target_modules": ["self_attn.q_proj", "1.mlp.up_proj"]},
        {"modules_to_save": ["lm_head", "input_layernorm"]},
        {"target_modules": ["q_proj", "no_such_module"]},
        {"target_modules": ["q_proj", "up_proj"], "modules_to_save": ["mlp", "norm"]},
        {"target_modules": ["model.layers.0.self_attn.q_proj", "v_proj"], "layers_to_transform": [1]},
    ],
    ids=str,
)
def test_what_peft_saves_is_whole(lora: dict[str, Any], untied: Path, tmp_path: Path) -> None:
    _require(make_adapter(tmp_path / "adapter", untied, **lora), open_shards(untied))


@pytest.mark.parametrize("architecture", ["qwen3", "mistral", "gemma3_text", "phi", "phi3", "gpt2"])
def test_so_it_is_for_other_families(architecture: str, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", architecture)
    lora = {"fan_in_fan_out": True} if architecture == "gpt2" else {}
    _require(make_adapter(tmp_path / "adapter", base, **lora), open_shards(base))


def test_layers_that_the_model_does_not_have_are_left_out(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", make_base(tmp_path / "base", **UNTIED))
    longer = open_shards(make_base(tmp_path / "longer", num_hidden_layers=3, **UNTIED))
    require_complete(open_adapter(adapter, longer), longer, LAYERS)
    with pytest.raises(ConversionError, match=r"lacks model\.layers\.2\.\w+\.\w+_proj, .* and 4 more"):
        require_complete(open_adapter(adapter, longer), longer, LAYERS + 1)


def test_a_part_that_reads_images_is_left_out(untied: Path, tmp_path: Path) -> None:
    base = open_shards(untied)
    seeing = {f"vision_tower.{name}": shape for name, shape in base.shapes.items() if ".layers." in name}
    both = Shards(base.folder, base.shapes | seeing, base.places)
    adapter = open_adapter(make_adapter(tmp_path / "adapter", untied), base)
    require_complete(adapter, both, LAYERS)


def test_experts_that_the_class_keeps_as_one_tensor_are_left_out(untied: Path, tmp_path: Path) -> None:
    base = open_shards(untied)
    experts = {f"model.layers.{layer}.mlp.experts.{i}.up_proj.weight": (96, 64) for layer in (0, 1) for i in (0, 1)}
    both = Shards(base.folder, base.shapes | experts, base.places)
    require_complete(open_adapter(make_adapter(tmp_path / "adapter", untied), base), both, LAYERS)


def test_keys_and_values_that_the_last_layers_take_from_others_are_left_out(untied: Path, tmp_path: Path) -> None:
    weights = make_adapter(tmp_path / "adapter", untied) / "adapter_model.safetensors"
    _lose(weights, lambda key: "1.self_attn.k_proj" in key or "1.self_attn.v_proj" in key)
    base = open_shards(untied)
    adapter = open_adapter(weights.parent, base)
    require_complete(adapter, base, LAYERS, shared_layers=1)
    with pytest.raises(ConversionError, match=r"lacks model\.layers\.1\.self_attn\.k_proj, .*\.v_proj\. Save"):
        require_complete(adapter, base, LAYERS)


@pytest.mark.parametrize(
    ("lora", "lost", "named"),
    [
        ({"bias": "all"}, "1.self_attn.k_proj.base_layer.bias", r"model\.layers\.1\.self_attn\.k_proj\.bias"),
        ({"modules_to_save": ["self_attn"]}, "0.self_attn.q_proj.bias", r"model\.layers\.0\.self_attn\.q_proj\.bias"),
        ({"lora_bias": True, "target_modules": ["q_proj"]}, "1.self_attn.q_proj.lora_B.bias", r"q_proj\.lora_B\.bias"),
    ],
    ids=["all biases", "of a saved module", "of LoRA"],
)
@pytest.mark.filterwarnings("ignore:Adapter 'default'. .* invalid shape")
def test_a_missing_bias_is_named(lora: dict[str, Any], lost: str, named: str, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "qwen2", **UNTIED)
    adapter = make_adapter(tmp_path / "adapter", base, **lora)
    _require(adapter, open_shards(base))
    _lose(adapter / "adapter_model.safetensors", lambda key: lost in key)
    with pytest.raises(ConversionError, match=rf"lacks [\w.]*{named}\. Save"):
        _require(adapter, open_shards(base))


def _require(adapter: Path, base: Shards) -> None:
    require_complete(open_adapter(adapter, base), base, LAYERS)


def _lose(weights: Path, is_lost: Callable[[str], bool]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    kept = {key: value for key, value in tensors.items() if not is_lost(key)}
    assert len(kept) < len(tensors)
    save_file(kept, weights)
