"""Bases whose files call tensors otherwise than the class that the adapter was trained on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ft_pipeline.errors import ConversionError
from ft_pipeline.merging.names import find_names
from ft_pipeline.merging.shards import open_shards
from ft_pipeline_tests.merging.conftest import Merge
from ft_pipeline_tests.merging.tiny_adapter import make_adapter, make_base


def test_finds_a_text_model_inside_another_one() -> None:
    stored = ["language_model.model.layers.0.mlp.up_proj.weight", "vision_tower.layers.0.mlp.up_proj.weight"]
    assert find_names(["model.layers.0.mlp.up_proj.weight"], stored) == {"model.layers.0.mlp.up_proj.weight": stored[0]}
    newer = ["model.language_model.norm.weight", "model.vision_tower.norm.weight"]
    assert find_names(["model.norm.weight"], newer) == {"model.norm.weight": newer[0]}


def test_does_not_choose_between_two() -> None:
    stored = ["language_model.norm.weight", "transformer.norm.weight"]
    assert find_names(["model.norm.weight"], stored) == {"model.norm.weight": None}


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_merges_into_a_base_that_was_saved_without_its_prefix(architecture: str, tmp_path: Path, merge: Merge) -> None:
    import torch

    base = make_base(tmp_path / "base", architecture, tie_word_embeddings=True)
    adapter = make_adapter(tmp_path / "adapter", base, fan_in_fan_out=architecture == "gpt2")
    expected, _ = merge(base, adapter)
    expected = expected.rename(tmp_path / "expected")
    bare = _rename_tensors(base, tmp_path / "bare", "")
    found, summary = merge(bare, adapter)
    merged, same = open_shards(found), open_shards(expected)
    assert set(merged.shapes) == set(open_shards(bare).shapes)
    assert all(torch.equal(merged.read(name.partition(".")[2]), same.read(name)) for name in same.shapes)
    assert all(check.passed for check in summary.checks)


def test_an_adapter_of_another_base_is_still_refused(tmp_path: Path, merge: Merge) -> None:
    base = make_base(tmp_path / "base", num_hidden_layers=1)
    adapter = make_adapter(tmp_path / "adapter", make_base(tmp_path / "other"), target_modules=["q_proj"])
    bare = _rename_tensors(base, tmp_path / "bare", "language_model.model.")
    with pytest.raises(ConversionError, match=r"model\.layers\.1\.self_attn\.q_proj\.weight \(64, 64\) is not in the"):
        merge(bare, adapter)


def _rename_tensors(base: Path, folder: Path, prefix: str) -> Path:
    """A copy of a base whose tensors have another first word."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    renamed = {
        name if name.startswith("lm_head") else prefix + name.partition(".")[2]: value
        for name, value in tensors.items()
    }
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
