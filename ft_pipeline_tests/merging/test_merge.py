"""The merge, through PEFT and transformers on tiny models."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import BaseModelError, ConversionError
from ft_pipeline.merging.merge import MergeRequest, merge_adapter
from ft_pipeline.merging.shards import INDEX_FILE, open_shards
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.summary import Summary
from ft_pipeline_tests.merging.tiny_adapter import make_adapter, make_base

# PEFT says that it saves the embedding with an adapter on it; that is what these tests are about.
saves_embedding = pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")

Merge = Callable[[Path, Path], tuple[Path, Summary]]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with tied embeddings, in several files."""
    return make_base(tmp_path_factory.mktemp("llama") / "base", tie_word_embeddings=True, max_shard_size="60KB")


@pytest.fixture(scope="session")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("llama") / "adapter", base)


@pytest.fixture
def merge(tmp_path: Path) -> Merge:
    def run(base: Path, adapter: Path) -> tuple[Path, Summary]:
        out_dir = tmp_path / "merged"
        out_dir.mkdir()
        request = MergeRequest(base=base, adapter=adapter, out_dir=out_dir)
        return out_dir, merge_adapter(request, LogReporter(logging.getLogger("merge")))

    return run


@saves_embedding
@pytest.mark.parametrize(
    ("architecture", "config", "lora"),
    [
        ("llama", {"tie_word_embeddings": True, "max_shard_size": "60KB"}, {}),
        ("llama", {"tie_word_embeddings": False}, {"use_rslora": True, "r": 8}),
        ("qwen2", {"tie_word_embeddings": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 32}}),
        ("qwen2", {"tie_word_embeddings": False}, {"target_modules": ["lm_head", "embed_tokens", "q_proj"]}),
        ("llama", {"tie_word_embeddings": False}, {"use_dora": True, "use_rslora": True}),
        ("llama", {"tie_word_embeddings": False}, {"modules_to_save": ["lm_head", "embed_tokens"]}),
        ("qwen2", {"tie_word_embeddings": True}, {"use_dora": True, "modules_to_save": ["input_layernorm", "norm"]}),
    ],
    ids=[
        "sharded-tied-llama",
        "rslora",
        "qwen2-patterns",
        "embedding-and-head",
        "dora",
        "modules-to-save",
        "dora-and-norms",
    ],
)
def test_equals_pefts_float32_merge_cast_once(
    architecture: str, config: dict[str, Any], lora: dict[str, Any], tmp_path: Path, merge: Merge
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = make_base(tmp_path / "base", architecture, **config)
    adapter = make_adapter(tmp_path / "adapter", base, **lora)
    out_dir, _ = merge(base, adapter)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    expected = PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload().state_dict()
    merged = open_shards(out_dir)
    assert all(torch.equal(merged.read(name), expected[name].to(torch.float16)) for name in merged.shapes)
    assert set(merged.shapes) == set(open_shards(base).shapes)


def test_logits_are_the_adapters_within_float16(base: Path, adapter: Path, merge: Merge) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    out_dir, _ = merge(base, adapter)
    ids = torch.arange(3, 60).unsqueeze(0)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        untouched = plain(ids).logits
        adapted = PeftModel.from_pretrained(plain, str(adapter))(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(out_dir, dtype=torch.float32)(ids).logits
    # Weights are rounded to 11 bits, the rest is float32: a thousandth of the logits' spread is far above that.
    tolerance = 1e-3 * float(adapted.std())
    assert float((adapted - merged).abs().max()) < tolerance
    assert float((adapted - untouched).abs().max()) > 100 * tolerance


def test_counts_what_changed(base: Path, adapter: Path, merge: Merge) -> None:
    _, summary = merge(base, adapter)
    assert summary.figures["tensors_changed"] == 2 * 7
    assert summary.figures["tensors"] == 2 * 9 + 2
    assert 0 < float(summary.figures["largest_relative_change"] or 0) < 10
    assert not summary.failed


def test_tokenizer_and_configuration_travel_unchanged_but_for_the_type(
    base: Path, adapter: Path, tmp_path: Path, merge: Merge
) -> None:
    trained = shutil.copytree(adapter, tmp_path / "adapter")
    (trained / "chat_template.jinja").write_text("{{ 'trained' }}", encoding="utf-8")
    out_dir, _ = merge(base, trained)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (out_dir / name).read_bytes() == (trained / name).read_bytes()
    before, after = (json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (base, out_dir))
    assert after.pop("dtype") == "float16"
    assert before.pop("dtype") == "bfloat16"
    assert after == before
    assert (out_dir / "generation_config.json").read_bytes() == (base / "generation_config.json").read_bytes()


def test_takes_the_bases_tokenizer_where_the_adapter_has_none(
    base: Path, adapter: Path, tmp_path: Path, merge: Merge
) -> None:
    bare = shutil.copytree(adapter, tmp_path / "adapter", ignore=shutil.ignore_patterns("tokenizer*", "chat_template*"))
    out_dir, _ = merge(base, bare)
    assert (out_dir / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert (out_dir / "chat_template.jinja").is_file()


def test_warns_of_an_adapter_that_was_never_trained(
    base: Path, tmp_path: Path, merge: Merge, caplog: pytest.LogCaptureFixture
) -> None:
    untrained = make_adapter(tmp_path / "adapter", base, trained=False)
    _, summary = merge(base, untrained)
    assert "changes nothing in 14 of its 14 tensors: LoRA's B" in caplog.text
    assert summary.figures["tensors_changed"] == 0


def test_a_value_beyond_float16_names_the_tensor(base: Path, tmp_path: Path, adapter: Path, merge: Merge) -> None:
    wide = _copy_with(base, tmp_path / "wide", "model.norm.weight", 1e5)
    with pytest.raises(ConversionError, match=r"model\.norm\.weight overflows float16 .*65504"):
        merge(wide, adapter)


def test_a_damaged_value_names_the_tensor(base: Path, tmp_path: Path, adapter: Path, merge: Merge) -> None:
    broken = _copy_with(base, tmp_path / "broken", "model.norm.weight", float("nan"))
    with pytest.raises(ConversionError, match=r"model\.norm\.weight holds NaN"):
        merge(broken, adapter)


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


@saves_embedding
def test_refuses_an_adapter_on_tied_embeddings(base: Path, tmp_path: Path, merge: Merge) -> None:
    untied = make_base(tmp_path / "untied", tie_word_embeddings=False)
    on_head = make_adapter(tmp_path / "adapter", untied, target_modules=["embed_tokens"])
    with pytest.raises(ConversionError, match=r"uses twice .*changes model\.embed_tokens\.weight"):
        merge(base, on_head)


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


def _copy_with(base: Path, folder: Path, name: str, value: float) -> Path:
    """A copy of a base with one value of one tensor changed."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    shard = folder / open_shards(base).files[name]
    tensors = load_file(shard)
    tensors[name].view(-1)[0] = value
    save_file(tensors, shard, metadata={"format": "pt"})
    return folder
