"""Bases and adapters that cannot become one model: one clear error, and nothing of the merged weights is left."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.base_weights import INDEX_FILE
from ft_pipeline.errors import BaseModelError, ConversionError
from ft_pipeline.merging.shards import open_shards
from ft_pipeline_tests.merging.conftest import Merge
from ft_pipeline_tests.merging.tiny_adapter import make_adapter, make_base


def test_a_value_beyond_float16_names_the_tensor(base: Path, tmp_path: Path, adapter: Path, merge: Merge) -> None:
    wide = _copy_with(base, tmp_path / "wide", "model.norm.weight", 1e5)
    message = r"model\.norm\.weight overflows float16\. .*ends at 65504.* set merging\.dtype: bfloat16"
    with pytest.raises(ConversionError, match=message):
        merge(wide, adapter)
    assert not list((tmp_path / "merged").iterdir())


def test_bfloat16_takes_what_float16_does_not(base: Path, tmp_path: Path, adapter: Path, merge: Merge) -> None:
    wide = _copy_with(base, tmp_path / "wide", "model.norm.weight", 1e5)
    out_dir, _ = merge(wide, adapter, dtype="bfloat16")
    assert open_shards(out_dir).read("model.norm.weight").max() == open_shards(wide).read("model.norm.weight").max()


def test_counts_all_tensors_that_overflow_and_names_five(tmp_path: Path, merge: Merge) -> None:
    base = make_base(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base)
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 1e9}), encoding="utf-8")
    message = r"layers\.0\.mlp\.down_proj\.weight overflows float16; .*overflows float16; and 9 more"
    with pytest.raises(ConversionError, match=message):
        merge(base, adapter)


def test_a_damaged_value_names_the_tensor(base: Path, tmp_path: Path, adapter: Path, merge: Merge) -> None:
    broken = _copy_with(base, tmp_path / "broken", "model.norm.weight", float("nan"))
    with pytest.raises(ConversionError, match=r"model\.norm\.weight holds NaN in the base\. .* fetch it again"):
        merge(broken, adapter)


def test_a_damaged_value_of_the_adapter_names_its_tensor(
    base: Path, tmp_path: Path, adapter: Path, merge: Merge
) -> None:
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(adapter, tmp_path / "adapter")
    tensors = load_file(broken / "adapter_model.safetensors")
    tensors["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"][3, 2] = float("nan")
    save_file(tensors, broken / "adapter_model.safetensors")
    with pytest.raises(ConversionError, match=r"layers\.1\.mlp\.up_proj\.lora_B\.weight .* holds NaN or infinity"):
        merge(base, broken)


def test_refuses_an_adapter_of_another_base_by_shape(base: Path, tmp_path: Path, merge: Merge) -> None:
    other = make_base(tmp_path / "other", hidden_size=32, intermediate_size=64)
    adapter = make_adapter(tmp_path / "adapter", other, target_modules=["q_proj"])
    message = r"layers\.0\.self_attn\.q_proj\.weight is \(64, 64\) in the base and \(32, 32\) in the adapter"
    with pytest.raises(ConversionError, match=message):
        merge(base, adapter)


def test_refuses_an_adapter_of_another_base_by_module(base: Path, tmp_path: Path, merge: Merge) -> None:
    other = make_base(tmp_path / "other", num_hidden_layers=4)
    adapter = make_adapter(tmp_path / "adapter", other, target_modules=["q_proj"])
    with pytest.raises(ConversionError, match=r"layers\.2\.self_attn\.q_proj\.weight \(64, 64\) is not in the base"):
        merge(base, adapter)


def test_refuses_pickled_adapter_weights(base: Path, adapter: Path, tmp_path: Path, merge: Merge) -> None:
    pickled = shutil.copytree(adapter, tmp_path / "adapter")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(ConversionError, match=r"has adapter_model\.bin.*can run code"):
        merge(base, pickled)


def test_refuses_an_adapter_that_is_no_lora(base: Path, adapter: Path, tmp_path: Path, merge: Merge) -> None:
    other = shutil.copytree(adapter, tmp_path / "adapter")
    (other / "adapter_config.json").write_text('{"peft_type": "IA3"}', encoding="utf-8")
    with pytest.raises(ConversionError, match="must be of the type LORA, got 'IA3'"):
        merge(base, other)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("target_parameters", ["mlp.experts.down_proj"], r'target_parameters: \["mlp\.experts\.down_proj"\]'),
        ("layer_replication", [[0, 2], [0, 2]], r"layer_replication: \[\[0, 2\], \[0, 2\]\]"),
        ("trainable_token_indices", [3], r"trainable_token_indices: \[3\]"),
        ("a_method_of_next_year", True, "a_method_of_next_year: true"),
        ("init_lora_weights", "pissa_niter_4", "init_lora_weights: pissa_niter_4, which changes the base"),
        ("init_lora_weights", "mica", 'init_lora_weights: "mica"'),
    ],
)
def test_refuses_what_a_merge_would_get_wrong(
    field: str, value: Any, message: str, base: Path, adapter: Path, tmp_path: Path, merge: Merge
) -> None:
    other = shutil.copytree(adapter, tmp_path / "adapter")
    config = json.loads((other / "adapter_config.json").read_text(encoding="utf-8"))
    (other / "adapter_config.json").write_text(json.dumps(config | {field: value}), encoding="utf-8")
    with pytest.raises(ConversionError, match=message):
        merge(base, other)


def test_refuses_factors_of_another_rank_than_configured(
    base: Path, adapter: Path, tmp_path: Path, merge: Merge
) -> None:
    other = shutil.copytree(adapter, tmp_path / "adapter")
    config = json.loads((other / "adapter_config.json").read_text(encoding="utf-8"))
    (other / "adapter_config.json").write_text(json.dumps(config | {"r": 5}), encoding="utf-8")
    with pytest.raises(ConversionError, match=r"with r as configured, 5; those of .* are \(4, 96\) and \(64, 4\)"):
        merge(base, other)


def test_names_a_missing_shard(base: Path, adapter: Path, tmp_path: Path, merge: Merge) -> None:
    broken = shutil.copytree(base, tmp_path / "base")
    shard = sorted(broken.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(BaseModelError, match=f"lacks {shard.name}"):
        merge(broken, adapter)


def test_names_a_truncated_shard(base: Path, adapter: Path, tmp_path: Path, merge: Merge) -> None:
    broken = shutil.copytree(base, tmp_path / "base")
    shard = sorted(broken.glob("model-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(BaseModelError, match=rf"{shard.name} is damaged or truncated \(.*incomplete"):
        merge(broken, adapter)


def test_names_a_shard_that_is_not_the_published_one(base: Path, adapter: Path, tmp_path: Path, merge: Merge) -> None:
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in base.glob("*.safetensors")}
    broken = _copy_with(base, tmp_path / "broken", "model.norm.weight", 0.5)
    name = open_shards(base).files["model.norm.weight"]
    found = hashlib.sha256((broken / name).read_bytes()).hexdigest()
    with pytest.raises(BaseModelError, match=rf"the SHA-256 of .*{name} is {found}, not {hashes[name]}"):
        merge(broken, adapter, base_hashes=hashes)
    assert not list((tmp_path / "merged").iterdir())
    shutil.rmtree(tmp_path / "merged")
    merge(base, adapter, base_hashes=hashes)


def test_a_full_disk_leaves_nothing_and_stays_an_error_of_the_system(
    base: Path, adapter: Path, tmp_path: Path, merge: Merge, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = os.pwrite, iter(range(10))

    def fill(descriptor: int, buffer: memoryview, offset: int) -> int:
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, buffer, offset)

    monkeypatch.setattr(os, "pwrite", fill)
    with pytest.raises(OSError, match=r"No space left on device: '.*model\.safetensors'") as caught:
        merge(base, adapter)
    assert caught.value.errno == errno.ENOSPC
    assert not list((tmp_path / "merged").iterdir())


def test_refuses_an_index_that_leaves_tensors_out(base: Path, adapter: Path, tmp_path: Path, merge: Merge) -> None:
    broken = shutil.copytree(base, tmp_path / "base")
    index = json.loads((broken / INDEX_FILE).read_text(encoding="utf-8"))
    del index["weight_map"]["model.norm.weight"]
    (broken / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(BaseModelError, match=r"1 differ, the first is 'model\.norm\.weight'"):
        merge(broken, adapter)


def test_refuses_a_base_without_all_of_its_weights(base: Path, adapter: Path, tmp_path: Path, merge: Merge) -> None:
    from safetensors.torch import save_file

    shards = open_shards(base)
    broken = shutil.copytree(base, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors", INDEX_FILE))
    kept = {name: shards.read(name) for name in shards.shapes if name != "model.norm.weight"}
    save_file(kept, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"lacks model\.norm\.weight"):
        merge(broken, adapter)


def test_refuses_a_quantized_base(base: Path, adapter: Path, tmp_path: Path, merge: Merge) -> None:
    quantized = shutil.copytree(base, tmp_path / "base")
    config = json.loads((quantized / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (quantized / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(BaseModelError, match=r"quantized \(bitsandbytes\)"):
        merge(quantized, adapter)


def test_refuses_a_base_of_other_types(base: Path, adapter: Path, tmp_path: Path, merge: Merge) -> None:
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(base, tmp_path / "base")
    shard = other / open_shards(base).files["model.norm.weight"]
    tensors = load_file(shard)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].char()
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"1 tensors of .* the first is model\.norm\.weight \(I8\)"):
        merge(other, adapter)


def _copy_with(base: Path, folder: Path, name: str, value: float) -> Path:
    """A copy of a base with one value of one tensor changed."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    shard = folder / open_shards(base).files[name]
    tensors = load_file(shard)
    tensors[name].view(-1)[0] = value
    save_file(tensors, shard, metadata={"format": "pt"})
    return folder
