"""Bases whose weights are, or are not, what their config says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: TID253
from safetensors.torch import load_file, save_file

from ft_pipeline.base_model import open_base
from ft_pipeline.base_weights import read_index
from ft_pipeline.errors import BaseModelError
from ft_pipeline.recipe import BaseModelSection

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 60,
    "pad_token_id": 0,
}
_VISION: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_VISION |= {"image_size": 28, "patch_size": 14}
_FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "phi"]


def make_base(folder: Path, kind: str = "llama", shard_size: str = "1GB", **config: Any) -> Path:
    """A base of transformers' own class, without a tokenizer that works."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(config or _SIZES)))
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size=shard_size)
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, **changes: Any) -> None:
    """Set, or with None drop, tensors by name."""
    weights = {**load_file(folder / "model.safetensors"), **changes}
    left = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(left, folder / "model.safetensors", metadata={"format": "pt"})


def open_(folder: Path) -> None:
    open_base(BaseModelSection(source=folder.name), folder.parent)


def _refused(folder: Path, words: str) -> None:
    with pytest.raises(
        BaseModelError, match=rf"weights must be those that its config.json describes; in .*base {words}"
    ):
        open_(folder)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("sound") / "base", **_SIZES, tie_word_embeddings=False)


@pytest.fixture
def base(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "base"))


# Sound bases


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", _FAMILIES)
def test_every_family_is_taken_as_transformers_saves_it(tmp_path: Path, kind: str, tied: bool) -> None:
    folder = make_base(tmp_path / "base", kind, **_SIZES, tie_word_embeddings=tied and kind != "phi")
    open_(folder)
    change_config(folder, num_hidden_layers=3)
    _refused(folder, r"model\.layers\.2\.self_attn\.\w+\.weight is missing, by the config \[\d+, 32\] \(num_hidden")


def test_a_base_in_several_files_is_taken(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base", "llama", "10KB", **_SIZES)
    assert len(list(folder.glob("*.safetensors"))) > 1
    open_(folder)


@pytest.mark.parametrize("newer", [True, False])
def test_the_text_part_of_a_model_that_reads_images_is_found(tmp_path: Path, newer: bool) -> None:
    text = _SIZES | {"tie_word_embeddings": True}
    folder = make_base(tmp_path / "base", "gemma3", text_config=text, vision_config=_VISION)
    weights = load_file(folder / "model.safetensors")
    old, new = "language_model.model.", "model.language_model."
    assert any(name.startswith((old, new)) for name in weights)
    source, target = (old, new) if newer else (new, old)
    renamed = {name.replace(source, target): tensor for name, tensor in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    open_(folder)
    change_config(
        folder, text_config=json.loads((folder / "config.json").read_text())["text_config"] | {"vocab_size": 61}
    )
    _refused(folder, r"model\.embed_tokens\.weight is \[60, 32\], by the config \[61, 32\]")


def test_tied_embeddings_may_be_stored_twice(base: Path) -> None:
    change_config(base, tie_word_embeddings=True)
    open_(base)


# Configs and weights that do not agree


def test_an_output_layer_that_is_not_there_is_missed(base: Path) -> None:
    change_weights(base, **{"lm_head.weight": None})
    _refused(
        base, r"lm_head\.weight is missing, by the config \[60, 32\] \(vocab_size: 60, tie_word_embeddings: false\)"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"vocab_size": 640},
            r"model\.embed_tokens\.weight is \[60, 32\], by the config \[640, 32\] \(vocab_size: 640",
        ),
        (
            {"intermediate_size": 64},
            r"model\.layers\.0\.mlp\.gate_proj\.weight is \[48, 32\], by the config \[64, 32\]",
        ),
        ({"attention_bias": True}, r"model\.layers\.0\.self_attn\.q_proj\.bias is missing"),
        ({"num_hidden_layers": 1}, r"there is model\.layers\.1\.\S+, which is beyond .* \(num_hidden_layers: 1\)"),
    ],
)
def test_a_config_that_says_otherwise_is_named(base: Path, changes: dict[str, Any], words: str) -> None:
    change_config(base, **changes)
    _refused(base, words)


def test_a_norm_that_is_not_there_is_missed(base: Path) -> None:
    change_weights(base, **{"model.norm.weight": None})
    _refused(base, r"model\.norm\.weight is missing, by the config \[32\]")


def test_names_that_transformers_would_not_find_are_refused(base: Path) -> None:
    weights = load_file(base / "model.safetensors")
    save_file({name.removeprefix("model."): tensor for name, tensor in weights.items()}, base / "model.safetensors")
    _refused(base, r"model\.embed_tokens\.weight is missing")


def test_a_quantized_base_is_refused_before_it_is_trained_in_vain(base: Path) -> None:
    change_config(base, quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(
        BaseModelError, match=r"a base must be in 16 bits, .* Name the 16-bit model that it was made from"
    ):
        open_(base)


def test_a_truncated_weight_file_is_named(base: Path) -> None:
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(BaseModelError, match=r"model\.safetensors is damaged or truncated .* Fetch it again"):
        open_(base)


@pytest.mark.parametrize("text", ["no json", "[]", '{"weight_map": 3}'])
def test_an_index_that_does_not_read_is_named(base: Path, text: str) -> None:
    (base / "model.safetensors.index.json").write_text(text)
    with pytest.raises(BaseModelError, match=r"index\.json must be an index of safetensors"):
        open_(base)


def test_weights_that_are_there_twice_are_refused(base: Path) -> None:
    index = '{"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}'
    (base / "model.safetensors.index.json").write_text(index)
    with pytest.raises(BaseModelError, match=r"has model\.safetensors and model\.safetensors\.index\.json, and nobody"):
        read_index(base)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ('{"a": "../b.safetensors"}', r"must name files beside it, got '\.\./b\.safetensors'"),
        ('{"a": 3}', "must be an index of safetensors"),
        ("{}", "must name the tensors of the model, and names none"),
    ],
)
def test_an_index_names_files_beside_it(base: Path, weight_map: str, message: str) -> None:
    (base / "model.safetensors.index.json").write_text(f'{{"weight_map": {weight_map}}}')
    with pytest.raises(BaseModelError, match=message):
        read_index(base)
