"""Bases whose output layer is their embedding: what is written computes what the adapter computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import ConversionError
from ft_pipeline.merging.shards import open_shards
from ft_pipeline_tests.merging.conftest import Merge
from ft_pipeline_tests.merging.tiny_adapter import make_adapter, make_base

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings=True:UserWarning"),
]


@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
        {"target_modules": ["embed_tokens"], "use_dora": True},
    ],
    ids=["lora-embedding", "lora-head", "saved-embedding", "saved-head", "saved-both", "dora-embedding"],
)
def test_writes_both_tensors_where_the_adapter_makes_them_differ(
    lora: dict[str, Any], base: Path, tmp_path: Path, merge: Merge
) -> None:
    adapter = make_adapter(tmp_path / "adapter", base, **lora)
    out_dir, _ = merge(base, adapter)
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= open_shards(out_dir).shapes.keys()
    assert json.loads((out_dir / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"] is False
    _require_the_adapters_logits(out_dir, base, adapter)


@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True},
    ],
    ids=["saved", "lora"],
)
def test_stays_tied_where_both_are_changed_alike(
    lora: dict[str, Any], base: Path, tmp_path: Path, merge: Merge
) -> None:
    adapter = make_adapter(tmp_path / "adapter", base, **lora)
    out_dir, _ = merge(base, adapter)
    assert open_shards(out_dir).shapes == open_shards(base).shapes
    assert json.loads((out_dir / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"] is True
    _require_the_adapters_logits(out_dir, base, adapter)


def test_drops_a_copy_of_the_embedding(base: Path, adapter: Path, tmp_path: Path, merge: Merge) -> None:
    from safetensors.torch import save_file

    doubled = make_base(tmp_path / "base", tie_word_embeddings=True)
    shards = open_shards(doubled)
    tensors = {name: shards.read(name) for name in shards.shapes}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, doubled / "model.safetensors", metadata={"format": "pt"})
    out_dir, _ = merge(doubled, adapter)
    assert open_shards(out_dir).shapes == open_shards(base).shapes


def test_keeps_a_stored_head_that_differs(adapter: Path, tmp_path: Path, merge: Merge) -> None:
    """transformers loads both then, whatever the configuration says."""
    from safetensors.torch import save_file

    odd = make_base(tmp_path / "base", tie_word_embeddings=True)
    shards = open_shards(odd)
    tensors = {name: shards.read(name) for name in shards.shapes}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(tensors, odd / "model.safetensors", metadata={"format": "pt"})
    out_dir, _ = merge(odd, adapter)
    assert "lm_head.weight" in open_shards(out_dir).shapes
    assert json.loads((out_dir / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"] is False


@pytest.mark.parametrize("kind", ["gemma", "gemma2", "gemma3_text"])
def test_refuses_gemmas_that_would_come_apart(kind: str, tmp_path: Path, merge: Merge) -> None:
    base = make_base(tmp_path / "base", kind, tie_word_embeddings=True, head_dim=16)
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["embed_tokens"])
    message = rf"changes model\.embed_tokens\.weight, and a GGUF of {kind} cannot hold"
    with pytest.raises(ConversionError, match=message):
        merge(base, adapter)


def _require_the_adapters_logits(merged: Path, base: Path, adapter: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.arange(3, 60).unsqueeze(0)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(plain, str(adapter))(ids).logits
        found = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)(ids).logits
    # Weights are rounded to 11 bits, the rest is float32.
    assert float((adapted - found).abs().max()) < 2e-3 * float(adapted.std())
