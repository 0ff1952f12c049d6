"""An adapter that lacks something of what its configuration says was trained, and those that lack nothing."""

from __future__ import annotations

import json
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
    from safetensors.torch import load_file, save_file

    adapter = make_adapter(tmp_path / "adapter", untied, modules_to_save=["lm_head"])
    weights = adapter / "adapter_model.safetensors"
    save_file({key: value for key, value in load_file(weights).items() if not lost(key)}, weights)
    with pytest.raises(ConversionError, match=named):
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


@pytest.mark.parametrize(
    ("changes", "lora", "message"),
    [
        ({"use_dora": True}, {}, r"it says True, and those of .* are missing for \d+ outputs"),
        ({"use_dora": False}, {"use_dora": True}, r"it says False, and those of .* are \(\d+,\) for \d+ outputs"),
    ],
)
def test_magnitudes_are_there_if_the_configuration_says_dora(
    changes: dict[str, Any], lora: dict[str, Any], message: str, untied: Path, tmp_path: Path
) -> None:
    adapter = _configure(make_adapter(tmp_path / "adapter", untied, **lora), changes)
    with pytest.raises(ConversionError, match=message):
        open_adapter(adapter, open_shards(untied))


def test_a_magnitude_of_another_shape_is_refused(untied: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = make_adapter(tmp_path / "adapter", untied, use_dora=True) / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({key: value[:1] if "magnitude" in key else value for key, value in tensors.items()}, weights)
    with pytest.raises(ConversionError, match=r"are \(1,\) for \d+ outputs"):
        open_adapter(weights.parent, open_shards(untied))


def test_a_tensor_that_is_changed_under_two_names_is_refused(untied: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = make_adapter(tmp_path / "adapter", untied, target_modules=["q_proj"]) / "adapter_model.safetensors"
    tensors = load_file(weights)
    twice = {key.replace("model.model.layers", "model.language_model.layers"): value for key, value in tensors.items()}
    save_file(tensors | {key: value.clone() for key, value in twice.items()}, weights)
    with pytest.raises(ConversionError, match=r"q_proj\.weight is changed twice, the second time as "):
        open_adapter(weights.parent, open_shards(untied))


def test_whole_tensors_are_floating_point_numbers(untied: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = make_adapter(tmp_path / "adapter", untied, modules_to_save=["lm_head"]) / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({key: value.int() if "lm_head" in key else value for key, value in tensors.items()}, weights)
    with pytest.raises(ConversionError, match=r"lm_head\.weight in .* is torch\.int32\. Save it again"):
        open_adapter(weights.parent, open_shards(untied))


def test_fan_in_fan_out_is_not_heard_of_layers_that_store_nothing_transposed(untied: Path, tmp_path: Path) -> None:
    adapter = _configure(make_adapter(tmp_path / "adapter", untied), {"fan_in_fan_out": True})
    found = open_adapter(adapter, open_shards(untied))
    assert not any(update.transposed for update in found.updates.values())


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to True:UserWarning")
def test_square_layers_of_a_gpt2_are_transposed_though_the_head_is_not(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "gpt2", **UNTIED)
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["attn.c_proj", "lm_head"], fan_in_fan_out=True)
    updates = open_adapter(_configure(adapter, {"fan_in_fan_out": False}), open_shards(base)).updates
    assert [update.transposed for name, update in updates.items() if "c_proj" in name] == [True, True]
    assert not updates["lm_head.weight"].transposed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 0}, "r: Input should be greater than or equal to 1, got 0"),
        ({"r": None}, "r: Input should be a valid integer, got None"),
        ({"r": "4"}, "r: Input should be a valid integer, got '4'"),
        ({"lora_alpha": None}, "lora_alpha: Input should be a valid number, got None"),
        ({"lora_alpha": float("nan")}, "lora_alpha: Input should be a finite number, got nan"),
        ({"rank_pattern": [1]}, r"rank_pattern: Input should be a valid dictionary, got \[1\]"),
        ({"alpha_pattern": {"(": 4}}, "must be a regular expression"),
        ({"target_modules": 3, "use_dora": "yes", "r": 0, "lora_alpha": None}, "; and 2 more"),
    ],
)
def test_a_malformed_configuration_is_one_error(
    changes: dict[str, Any], message: str, untied: Path, tmp_path: Path
) -> None:
    adapter = _configure(make_adapter(tmp_path / "adapter", untied), changes)
    with pytest.raises(ConversionError, match=rf"adapter_config\.json says .*{message}"):
        open_adapter(adapter, open_shards(untied))


def test_json_that_is_nested_without_end_is_an_error(untied: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", untied)
    (adapter / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(ConversionError, match=r"must have a readable adapter_config\.json"):
        open_adapter(adapter, open_shards(untied))


def _require(adapter: Path, base: Shards) -> None:
    require_complete(open_adapter(adapter, base), base, LAYERS)


def _configure(adapter: Path, changes: dict[str, Any]) -> Path:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    return adapter
