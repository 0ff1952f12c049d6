"""What is read of an adapter: its configuration, and weights that agree with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import ConversionError
from ft_pipeline.merging.adapter import open_adapter
from ft_pipeline.merging.shards import open_shards
from ft_pipeline_tests.merging.conftest import Merge
from ft_pipeline_tests.merging.tiny_adapter import make_adapter, make_base

# PEFT says that it saves the embedding with an adapter on it.
pytestmark = pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")

UNTIED: dict[str, Any] = {"tie_word_embeddings": False}


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with an output layer of its own."""
    return make_base(tmp_path_factory.mktemp("untied") / "base", **UNTIED)


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
    with pytest.raises(ConversionError, match=r"is changed twice, as language_model\.layers\S+ and as model\.layers"):
        open_adapter(weights.parent, open_shards(untied))


def test_a_tensor_that_is_stored_twice_is_refused(untied: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = make_adapter(tmp_path / "adapter", untied, target_modules=["q_proj"]) / "adapter_model.safetensors"
    tensors = load_file(weights)
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file(tensors | {key.removeprefix("base_model.model."): tensors[key].clone()}, weights)
    with pytest.raises(ConversionError, match=rf"has {key} and model\.layers\.0\S+weight, which are the same one"):
        open_adapter(weights.parent, open_shards(untied))


@pytest.mark.filterwarnings("ignore:Adapter 'default'. .* invalid shape")
def test_a_bias_that_peft_would_leave_out_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "qwen2", **UNTIED)
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["q_proj"], lora_bias=True)
    with pytest.raises(ConversionError, match=r"holds \S+q_proj\.lora_B\.bias, and its \S+ does not say lora_bias"):
        open_adapter(_configure(adapter, {"lora_bias": False}), open_shards(base))


@pytest.mark.parametrize(
    ("dtype", "kind"), [("int32", "I32"), ("bool", "BOOL"), ("complex64", "C64"), ("float8_e4m3fn", "F8_E4M3")]
)
def test_whole_tensors_are_floating_point_numbers(dtype: str, kind: str, untied: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = make_adapter(tmp_path / "adapter", untied, modules_to_save=["lm_head"]) / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file(
        {key: value.to(getattr(torch, dtype)) if "lm_head" in key else value for key, value in tensors.items()}, weights
    )
    with pytest.raises(ConversionError, match=rf"lm_head\.weight in .* is {kind}\. Save it again"):
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
        ({"exclude_modules": "("}, r"must be a regular expression: missing \), .*, got '\('"),
        ({"layers_pattern": ["("]}, "must be a regular expression"),
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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dora_that_was_never_trained_is_warned_of_like_lora(
    dtype: str, untied: Path, tmp_path: Path, merge: Merge, caplog: pytest.LogCaptureFixture
) -> None:
    _, summary = merge(untied, make_adapter(tmp_path / "adapter", untied, trained=False, use_dora=True), dtype=dtype)
    assert "changes nothing in 14 of its 14 tensors: LoRA's B" in caplog.text
    assert summary.figures["tensors_untrained"] == 14


def _configure(adapter: Path, changes: dict[str, Any]) -> Path:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    return adapter
