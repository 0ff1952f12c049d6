"""The merged weights are those of PEFT's merge in float32, cast once, to the last bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.merging.shards import open_shards
from ft_pipeline_tests.merging.conftest import Merge
from ft_pipeline_tests.merging.tiny_adapter import make_adapter, make_base

pytestmark = [
    # PEFT says that it saves the embedding with an adapter on it, and what it makes of Conv1D; both are tested here.
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
    # It takes the bias of LoRA's B for a broken matrix.
    pytest.mark.filterwarnings("ignore:Adapter 'default'. .* invalid shape"),
]
_UNTIED = {"tie_word_embeddings": False}
_GEMMA = {"tie_word_embeddings": True, "head_dim": 16}


@pytest.mark.parametrize(
    ("architecture", "config", "lora"),
    [
        ("llama", {"tie_word_embeddings": True, "max_shard_size": "60KB"}, {}),
        ("llama", {**_UNTIED, "dtype": "float16"}, {"use_rslora": True, "r": 8}),
        ("llama", {**_UNTIED, "dtype": "float32", "max_shard_size": "60KB"}, {"r": 16}),
        ("llama", _UNTIED, {"use_dora": True, "use_rslora": True}),
        ("llama", _UNTIED, {"modules_to_save": ["lm_head", "embed_tokens"]}),
        ("llama", {**_UNTIED, "attention_bias": True}, {"bias": "all"}),
        ("qwen2", _UNTIED, {"bias": "lora_only", "target_modules": ["q_proj", "down_proj"]}),
        ("qwen2", _UNTIED, {"lora_bias": True, "target_modules": ["q_proj", "v_proj"]}),
        ("qwen2", {"tie_word_embeddings": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 32}}),
        (
            "qwen2",
            _UNTIED,
            {
                "rank_pattern": {r"layers\.1\..*": 2, "model.layers.0.mlp.up_proj": 6},
                "alpha_pattern": {"^model.*k_proj": 3},
            },
        ),
        ("qwen2", _UNTIED, {"target_modules": ["lm_head", "embed_tokens", "q_proj"]}),
        ("qwen2", _UNTIED, {"target_modules": ["lm_head", "embed_tokens", "q_proj"], "use_dora": True}),
        ("qwen2", {"tie_word_embeddings": True}, {"use_dora": True, "modules_to_save": ["input_layernorm", "norm"]}),
        ("qwen3", {"tie_word_embeddings": True, "head_dim": 32}, {}),
        ("mistral", _UNTIED, {"use_dora": True}),
        ("gemma", _GEMMA, {}),
        ("gemma2", _GEMMA, {"use_rslora": True}),
        ("gemma3_text", _GEMMA, {"use_dora": True}),
        ("phi3", _UNTIED, {}),
        ("phi3", _UNTIED, {"use_dora": True, "target_modules": ["qkv_proj"]}),
        ("phi", _UNTIED, {"modules_to_save": ["final_layernorm"]}),
        ("gpt2", {}, {"fan_in_fan_out": True}),
        ("gpt2", {}, {"target_modules": ["c_attn", "c_proj"], "use_dora": True}),
        ("gpt2", _UNTIED, {"target_modules": ["c_attn", "c_proj", "lm_head", "wte"]}),
    ],
    ids=[
        *("sharded-tied-llama", "float16-rslora", "float32-sharded", "dora", "modules-to-save", "bias-all"),
        *("bias-lora-only", "lora-bias", "patterns", "regex-patterns", "embedding-and-head"),
        *("dora-on-embedding-and-head", "dora-and-norms", "qwen3", "mistral", "gemma", "gemma2", "gemma3", "phi3"),
        *("phi3-dora", "phi", "gpt2", "gpt2-dora", "gpt2-embedding-and-head"),
    ],
)
def test_equals_pefts_float32_merge_cast_once(
    architecture: str, config: dict[str, Any], lora: dict[str, Any], tmp_path: Path, merge: Merge
) -> None:
    base = make_base(tmp_path / "base", architecture, **config)
    adapter = make_adapter(tmp_path / "adapter", base, **lora)
    out_dir, summary = merge(base, adapter)
    _require_equal(out_dir, base, adapter, "float16")
    assert set(open_shards(out_dir).shapes) == set(open_shards(base).shapes)
    assert [check.name for check in summary.checks if check.passed] == ["merged_as_trained", "logits"]


def test_equals_pefts_merge_in_bfloat16_too(base: Path, adapter: Path, merge: Merge) -> None:
    out_dir, _ = merge(base, adapter, dtype="bfloat16")
    _require_equal(out_dir, base, adapter, "bfloat16")
    assert '"dtype": "bfloat16"' in (out_dir / "config.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("chunk_values", [1, 64 * 64, 9_000])
@pytest.mark.parametrize("lora", [{}, {"use_dora": True, "target_modules": ["embed_tokens", "lm_head", "down_proj"]}])
def test_chunks_of_any_size_give_the_same_bytes(
    chunk_values: int, lora: dict[str, Any], tmp_path: Path, merge: Merge, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(tmp_path / "base", vocab_size=391, intermediate_size=167, tie_word_embeddings=False)
    adapter = make_adapter(tmp_path / "adapter", base, **lora)
    monkeypatch.setattr("ft_pipeline.merging.values.CHUNK_VALUES", chunk_values)
    monkeypatch.setattr("ft_pipeline.merging.values._BLOCK_VALUES", chunk_values)
    monkeypatch.setattr("ft_pipeline.merging.stream._PIECE_VALUES", 3 * chunk_values)
    out_dir, _ = merge(base, adapter)
    _require_equal(out_dir, base, adapter, "float16")


@pytest.mark.parametrize("rank", [16, 64])
@pytest.mark.parametrize(("rows", "columns"), [(2048, 1024), (1000, 4096)])
def test_a_product_of_some_rows_has_the_bits_of_the_whole_one(rank: int, rows: int, columns: int) -> None:
    import torch

    from ft_pipeline.merging.values import split_rows

    torch.manual_seed(rank)
    b, a = torch.randn(rows, rank), torch.randn(rank, columns)
    whole = b @ a
    assert all(torch.equal(b[i:j] @ a, whole[i:j]) for i, j in split_rows(0, rows, columns, 1))
    assert all(torch.equal(b @ a[:, i:j], whole[:, i:j]) for i, j in split_rows(0, columns, rows, 1))


def test_scaling_is_pefts(tmp_path: Path) -> None:
    from ft_pipeline.merging.adapter import read_adapter

    base = make_base(tmp_path / "base")
    patterns: dict[str, Any] = {"rank_pattern": {"v_proj": 9}, "alpha_pattern": {r"layers\.1\.self_attn\.v_proj": 5}}
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["v_proj"], use_rslora=True, **patterns)
    updates = read_adapter(adapter).updates
    assert updates["model.layers.0.self_attn.v_proj.weight"].scaling == 8 / math.sqrt(9)
    assert updates["model.layers.1.self_attn.v_proj.weight"].scaling == 5 / math.sqrt(9)


def _require_equal(merged: Path, base: Path, adapter: Path, dtype: str) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    expected = PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload().state_dict()
    found = open_shards(merged)
    wrong = [
        name for name in found.shapes if not torch.equal(found.read(name), expected[name].to(getattr(torch, dtype)))
    ]
    assert not wrong
