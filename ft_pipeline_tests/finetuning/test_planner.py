from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.base_model import read_config
from ft_pipeline.errors import BaseModelError, MemoryBudgetError, ResourceError
from ft_pipeline.finetuning.device import CPU, Device, find_device
from ft_pipeline.finetuning.planner import (
    BatchPlan,
    plan_batch,
    predict_memory,
    read_shapes,
    require_memory,
)
from ft_pipeline.recipe import LoraSection, TrainingSection

_GIB = 2**30
_CARD = Device("GPU-1", "a card", 9 * _GIB, 10 * _GIB)


@given(st.integers(1, 100_000), st.integers(1, 4096), st.floats(0, 1))
def test_a_batch_holds_the_effective_batch_and_the_budget(effective: int, longest: int, share: float) -> None:
    mean = max(1.0, longest * share)
    plan = plan_batch(effective, mean, longest)
    rows = max(1, round(effective / mean))
    assert rows <= plan.micro_batch_rows * plan.accumulation_steps < rows + plan.accumulation_steps
    assert plan.micro_batch_rows == 1 or plan.micro_batch_rows * longest <= 4096


def _fake_llama_8b(folder: Path) -> Path:
    """Config and safetensors headers of Llama-3.1-8B, without its weights."""
    hidden, ffn, vocab, layers = 4096, 14336, 128256, 32
    shapes = {
        "model.embed_tokens.weight": [vocab, hidden],
        "lm_head.weight": [vocab, hidden],
        "model.norm.weight": [hidden],
    }
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for name, shape in {
            "self_attn.q_proj": [hidden, hidden],
            "self_attn.k_proj": [1024, hidden],
            "self_attn.v_proj": [1024, hidden],
            "self_attn.o_proj": [hidden, hidden],
            "mlp.gate_proj": [ffn, hidden],
            "mlp.up_proj": [ffn, hidden],
            "mlp.down_proj": [hidden, ffn],
        }.items():
            shapes[f"{prefix}.{name}.weight"] = shape
        shapes[f"{prefix}.input_layernorm.weight"] = [hidden]
    header = json.dumps({n: {"dtype": "BF16", "shape": s, "data_offsets": [0, 0]} for n, s in shapes.items()}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    config = {"hidden_size": hidden, "num_hidden_layers": layers, "vocab_size": vocab}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_parts_of_an_8b_are_near_what_was_measured(tmp_path: Path) -> None:
    plan = predict_memory(_fake_llama_8b(tmp_path), TrainingSection(), BatchPlan(2, 4), 2048, _CARD)
    # Measured with Unsloth on an H200 (NF4, rank 16, 2 rows of 2,048 tokens): 6.78 GiB reserved, context left out.
    context_gib = 0.5
    assert plan.total_bytes / _GIB - context_gib == pytest.approx(6.78, abs=0.4)


def test_a_card_too_small_is_refused_with_parts_and_shortfall(tmp_path: Path) -> None:
    plan = predict_memory(_fake_llama_8b(tmp_path), TrainingSection(), BatchPlan(2, 4), 2048, _CARD)
    with pytest.raises(
        MemoryBudgetError, match=r"needs about .* GiB \(weights 5.*a card has 4.00 GiB free of 8.00: .* short"
    ):
        require_memory(plan, Device("GPU-1", "a card", 4 * _GIB, 8 * _GIB), None)
    with pytest.raises(MemoryBudgetError, match=r"has 1.00 GiB allowed by gpu.memory_limit_gib"):
        require_memory(plan, _CARD, _GIB)


def test_a_higher_rank_and_a_16_bit_base_take_more(tmp_path: Path) -> None:
    base, batch = _fake_llama_8b(tmp_path), BatchPlan(1, 1)
    small = predict_memory(base, TrainingSection(), batch, 512, _CARD)
    high_rank = predict_memory(base, TrainingSection(lora=LoraSection(rank=128)), batch, 512, _CARD)
    wide = predict_memory(base, TrainingSection(load_in_4bit=False), batch, 512, _CARD)
    assert high_rank.adapter_bytes == 8 * small.adapter_bytes
    assert wide.weights_bytes > 14 * _GIB


def test_the_shapes_are_those_of_the_file(tiny_base: Path) -> None:
    vocabulary_size = read_config(tiny_base)["vocab_size"]
    assert read_shapes(tiny_base)["model.embed_tokens.weight"] == (vocabulary_size, 256)


def test_a_truncated_safetensors_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x10\x00\x00")
    with pytest.raises(BaseModelError, match=r"model.safetensors is no whole safetensors file"):
        read_shapes(tmp_path)


def test_the_cpu_is_a_device() -> None:
    device = find_device("cpu")
    assert not device.is_gpu
    assert 0 < device.free_bytes <= device.total_bytes


def _fake_driver(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho '0, GPU-aaaa, NVIDIA GeForce RTX 4090, 20000, 24564'\n"
        "echo '1, GPU-bbbb, NVIDIA GeForce RTX 3080, 9000, 10240'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_the_first_visible_gpu_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_driver(tmp_path, monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_device("auto").name == "GPU-aaaa"
    assert find_device("1") == Device("GPU-bbbb", "NVIDIA GeForce RTX 3080", 9000 << 20, 10240 << 20)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert find_device("auto").name == "GPU-bbbb"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_device("auto").name == CPU


def test_a_gpu_that_is_not_there_is_an_error_that_lists_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_driver(tmp_path, monkeypatch)
    with pytest.raises(ResourceError, match=r"got '7'. GPUs here: 0: NVIDIA GeForce RTX 4090 GPU-aaaa, 1: "):
        find_device("7")
