"""What a merge writes and says, on tiny models of PEFT and transformers."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from ft_pipeline.base_weights import INDEX_FILE
from ft_pipeline.merging.shards import open_shards
from ft_pipeline_tests.merging.conftest import Merge
from ft_pipeline_tests.merging.tiny_adapter import make_adapter

small_files = pytest.mark.usefixtures("files_of_100_kb")


@pytest.fixture
def files_of_100_kb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ft_pipeline.merging.layout.MAX_FILE_BYTES", 100_000)


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


@small_files
def test_hashes_what_it_wrote(base: Path, adapter: Path, merge: Merge) -> None:
    out_dir, summary = merge(base, adapter)
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out_dir.glob("*.safetensors")}
    assert summary.sha256 == found
    assert len(found) > 1


@small_files
def test_files_and_index_are_those_of_safetensors(base: Path, adapter: Path, merge: Merge) -> None:
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    out_dir, summary = merge(base, adapter)
    shards = open_shards(out_dir)
    index = json.loads((out_dir / INDEX_FILE).read_text(encoding="utf-8"))
    assert index["metadata"]["total_size"] == sum(place.nbytes for place in shards.places.values())
    assert index["weight_map"] == shards.files
    assert list(shards.shapes) == list(open_shards(base).shapes)
    for path in out_dir.glob("*.safetensors"):
        assert path.stat().st_size <= 100_000
        assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0
        with safe_open(path, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
    model, loading = AutoModelForCausalLM.from_pretrained(out_dir, output_loading_info=True)
    assert str(model.dtype) == "torch.float16"
    assert not any(loading.values())
    assert summary.figures["size_bytes"] == sum(path.stat().st_size for path in out_dir.glob("*.safetensors"))


def test_the_logits_are_among_the_checks(base: Path, adapter: Path, merge_as_shipped: Merge) -> None:
    _, summary = merge_as_shipped(base, adapter)
    check = next(check for check in summary.checks if check.name == "logits")
    assert check.passed
    assert 0 < float(summary.figures["logit_difference"] or 0) < float(summary.figures["logit_tolerance"] or 0)


def test_leaves_out_what_is_computed_from_the_configuration(
    base: Path, adapter: Path, tmp_path: Path, merge: Merge
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    old = shutil.copytree(base, tmp_path / "old", ignore=shutil.ignore_patterns("*.safetensors*"))
    tensors = {name: value for path in base.glob("*.safetensors") for name, value in load_file(path).items()}
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(tensors, old / "model.safetensors", metadata={"format": "pt"})
    out_dir, _ = merge(old, adapter)
    assert open_shards(out_dir).shapes == open_shards(base).shapes
