"""merge_base nf4: the base as the adapter saw it in a 4-bit training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import BaseModelError
from ft_pipeline.merging.shards import open_shards
from ft_pipeline_tests.merging.conftest import Merge
from ft_pipeline_tests.merging.tiny_adapter import LINEAR, make_adapter, make_base


@pytest.mark.parametrize("base_dtype", ["bfloat16", "float32", "float16", None])
@pytest.mark.parametrize("tied", [True, False])
def test_equals_pefts_merge_into_what_bitsandbytes_makes_of_the_base(
    base_dtype: str | None, tied: bool, tmp_path: Path, merge: Merge
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = make_base(tmp_path / "base", tie_word_embeddings=tied, intermediate_size=128)
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["q_proj", "down_proj"])
    out_dir, summary = merge(base, adapter, merge_base="nf4", base_dtype=base_dtype)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    _round_linear_layers(model, getattr(torch, base_dtype or "bfloat16"))
    expected = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().state_dict()
    merged = open_shards(out_dir)
    wrong = [name for name in merged.shapes if not torch.equal(merged.read(name), expected[name].half())]
    assert not wrong
    untouched = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(merged.read(untouched), open_shards(base).read(untouched).half())
    assert summary.figures["tensors_changed"] == 2 * 2
    assert not summary.failed


def test_rounds_what_transformers_quantizes(tmp_path: Path, merge: Merge) -> None:
    """Loaded in 4 bits by transformers and dequantized, as in training."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    base = make_base(tmp_path / "base", "phi3", tie_word_embeddings=False, intermediate_size=128)
    adapter = make_adapter(tmp_path / "adapter", base, trained=False)
    out_dir, _ = merge(base, adapter, merge_base="nf4", base_dtype="bfloat16")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.bfloat16, quantization_config=config, device_map={"": "cpu"}
    )
    expected = model.dequantize().state_dict()
    merged = open_shards(out_dir)
    assert set(merged.shapes) == set(expected)
    wrong = [name for name in merged.shapes if not torch.equal(merged.read(name), expected[name].half())]
    assert not wrong


def test_pieces_of_any_size_give_the_same_bytes(tmp_path: Path, merge: Merge, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base(tmp_path / "base", tie_word_embeddings=True)
    adapter = make_adapter(tmp_path / "adapter", base)
    out_dir, whole = merge(base, adapter, merge_base="nf4")
    out_dir.rename(tmp_path / "whole")
    monkeypatch.setattr("ft_pipeline.merging.nf4._PIECE_VALUES", 128)
    monkeypatch.setattr("ft_pipeline.merging.values.CHUNK_VALUES", 1)
    _, cut = merge(base, adapter, merge_base="nf4")
    assert cut.sha256 == whole.sha256


def test_does_not_guess_what_another_family_quantizes(tmp_path: Path, merge: Merge) -> None:
    base = make_base(tmp_path / "base", "gpt2")
    adapter = make_adapter(tmp_path / "adapter", base, fan_in_fan_out=True)
    with pytest.raises(BaseModelError, match="got model_type 'gpt2'"):
        merge(base, adapter, merge_base="nf4")


def _round_linear_layers(model: Any, dtype: Any) -> None:
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    for name, module in model.named_modules():
        if name.rpartition(".")[2] in LINEAR:
            weight = module.weight.data.to(dtype)
            packed, state = quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
            module.weight.data = dequantize_4bit(packed, state).to(torch.float32)
