"""The merged model's logits against those of the adapter on its base: real classes, and PEFT as the one that merges."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import ConversionError
from ft_pipeline.merging import logit_sources, logits
from ft_pipeline.merging.adapter import open_adapter
from ft_pipeline.merging.logits import LogitCheck, compare_logits
from ft_pipeline.merging.merge import MergeRequest
from ft_pipeline.merging.nf4 import RoundedShards
from ft_pipeline.merging.shards import Shards, open_shards
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline_tests.merging.tiny_adapter import make_adapter, make_base

# PEFT says that it saves the embedding with an adapter on it; some of these tests are about that.
pytestmark = pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")

Q_PROJ = "model.layers.3.self_attn.q_proj.weight"
GPT2 = {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
UNTIED = {"tie_word_embeddings": False}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of eight layers."""
    return make_base(tmp_path_factory.mktemp("logits") / "base", num_hidden_layers=8, tie_word_embeddings=True)


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA that changes each matrix by some percent."""
    from safetensors.torch import load_file, save_file

    folder = make_adapter(tmp_path_factory.mktemp("logits") / "adapter", base)
    weights = folder / "adapter_model.safetensors"
    factors = {name: value * (0.1 if "lora_B" in name else 1) for name, value in load_file(weights).items()}
    save_file(factors, weights, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def merged(base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two merged by PEFT, in float16."""
    return _merge(base, adapter, tmp_path_factory.mktemp("logits") / "merged")


@pytest.mark.parametrize(
    ("architecture", "config", "lora"),
    [
        ("llama", {"tie_word_embeddings": True, "max_shard_size": "60KB"}, {}),
        ("llama", UNTIED, {"use_rslora": True, "use_dora": True}),
        ("llama", UNTIED, {"modules_to_save": ["lm_head", "embed_tokens", "input_layernorm"]}),
        ("llama", UNTIED, {"target_modules": ["lm_head", "embed_tokens", "q_proj"], "use_dora": True}),
        pytest.param(
            *("qwen2", UNTIED, {"lora_bias": True, "target_modules": ["q_proj"]}),
            # PEFT takes the biases for factors that were not gathered.
            marks=pytest.mark.filterwarnings("ignore:Adapter 'default'. 2 LoRA tensor"),
        ),
        ("qwen2", {"tie_word_embeddings": True}, {"bias": "all"}),
        ("qwen3", {}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 32}}),
        ("mistral", {}, {}),
        ("gemma", {}, {}),
        ("gemma2", {"head_dim": 16}, {}),
        ("gemma3_text", {"head_dim": 16}, {}),
        ("phi", UNTIED, {"target_modules": ["q_proj", "dense", "fc1", "fc2"]}),
        ("phi3", {}, {"target_modules": ["qkv_proj", "gate_up_proj", "down_proj"]}),
        ("gpt2", {}, GPT2),
        ("gpt2", {}, {**GPT2, "use_dora": True}),
    ],
)
def test_computes_what_pefts_model_computes(
    architecture: str, config: dict[str, Any], lora: dict[str, Any], tmp_path: Path
) -> None:
    base = make_base(tmp_path / "base", architecture, **config)
    adapter = make_adapter(tmp_path / "adapter", base, **lora)
    check = _compare(base, adapter, _merge(base, adapter, tmp_path / "merged"))
    assert check is not None
    assert check.spread == pytest.approx(_spread_of_peft(base, adapter), rel=1e-5)
    assert 0 < check.largest_difference < check.tolerance / 2


def test_allows_bfloat16_its_coarser_rounding(base: Path, adapter: Path, merged: Path, tmp_path: Path) -> None:
    coarse = _merge(base, adapter, tmp_path / "merged", "bfloat16")
    fine_check, check = _compare(base, adapter, merged), _compare(base, adapter, coarse, dtype="bfloat16")
    assert check is not None
    assert fine_check is not None
    assert check.largest_difference < check.tolerance / 2
    assert check.tolerance == pytest.approx(8 * fine_check.tolerance, rel=0.2)
    with pytest.raises(ConversionError, match=r"off by 0\.00\d+ of its norm, of which rounding explains 0\.00049"):
        _compare(base, adapter, coarse, dtype="float16")


def test_tolerance_is_small_beside_the_adapters_effect(base: Path, adapter: Path, merged: Path, tmp_path: Path) -> None:
    check = _compare(base, adapter, merged)
    untouched = _change_model(base, tmp_path / "untouched", lambda _, value: value.half())
    assert check is not None
    assert check.tolerance < 0.02 * check.spread
    with pytest.raises(ConversionError, match=r"; and 51 more\. Delete the merged model and merge again"):
        _compare(base, adapter, untouched)


def test_names_the_one_matrix_whose_update_is_missing(base: Path, adapter: Path, merged: Path, tmp_path: Path) -> None:
    before = open_shards(base).read(Q_PROJ)
    broken = _change_model(merged, tmp_path / "broken", lambda name, value: before.half() if name == Q_PROJ else value)
    with pytest.raises(ConversionError, match=rf"in {broken} {Q_PROJ} is off by 0\.0\d+ of its norm") as err:
        _compare(base, adapter, broken)
    assert str(err.value).count("is off by") == 1


def test_finds_rslora_scaled_as_lora(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", base, use_rslora=True)
    broken = _merge_as_if(base, adapter, tmp_path / "broken", use_rslora=False)
    with pytest.raises(ConversionError, match=r"q_proj\.weight is off by .*; and 51 more"):
        _compare(base, adapter, broken)


def test_finds_dora_without_its_norm(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", base, use_dora=True)
    broken = _merge_as_if(base, adapter, tmp_path / "broken", use_dora=False)
    with pytest.raises(ConversionError, match=r"q_proj\.weight is off by .*; and 51 more"):
        _compare(base, adapter, broken)


@pytest.mark.parametrize("factor", [1.05, float("nan")])
def test_logits_alone_find_a_wrong_norm(
    factor: float, base: Path, adapter: Path, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logits._Probe, "_compare", lambda *_, **__: None)
    broken = _change_model(
        merged, tmp_path / "broken", lambda name, value: value * factor if name == "model.norm.weight" else value
    )
    with pytest.raises(ConversionError, match=rf"explains .* at a spread of .*those of {broken} differ by "):
        _compare(base, adapter, broken)


def test_a_model_that_was_untied_by_the_merge(base: Path, adapter: Path, merged: Path, tmp_path: Path) -> None:
    head = open_shards(merged).read("model.embed_tokens.weight")
    untied = _change_model(merged, tmp_path / "untied", lambda _, value: value, {"lm_head.weight": head})
    _configure(untied, tie_word_embeddings=False)
    assert _compare(base, adapter, untied) == _compare(base, adapter, merged)
    wrong = _change_model(untied, tmp_path / "wrong", lambda name, value: -value if "lm_head" in name else value)
    with pytest.raises(ConversionError, match=r"lm_head\.weight is off by 2 of its norm"):
        _compare(base, adapter, wrong)


def test_refuses_a_merged_model_that_is_configured_otherwise(
    base: Path, adapter: Path, merged: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(merged, tmp_path / "other"))
    _configure(other, rms_norm_eps=1e-3, vocab_size=384, eos_token_id=3)
    with pytest.raises(ConversionError, match=r"config\.json says rms_norm_eps: 0\.001 and not 1e-06\. Delete"):
        _compare(base, adapter, other)


def test_matrices_in_small_blocks_give_the_same(
    base: Path, adapter: Path, merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _compare(base, adapter, merged)
    monkeypatch.setattr(logit_sources, "_BLOCK_VALUES", 1000)
    parts = _compare(base, adapter, merged)
    assert whole is not None
    assert parts is not None
    assert parts.spread == pytest.approx(whole.spread, rel=1e-5)
    assert parts.tolerance == pytest.approx(whole.tolerance, rel=1e-2)


def test_a_base_rounded_to_nf4_is_not_the_published_one(base: Path, adapter: Path, tmp_path: Path) -> None:
    published = open_shards(base)
    linear = {name for name in published.shapes if name.endswith("_proj.weight")}
    rounded = RoundedShards.of(published, linear, "bfloat16")
    merged = _merge(base, adapter, tmp_path / "merged", values=rounded)
    assert _compare(rounded, adapter, merged) is not None
    with pytest.raises(ConversionError, match=r"q_proj\.weight is off by 0\.0\d+ of its norm"):
        _compare(published, adapter, merged)


def test_the_text_part_of_a_model_that_reads_images(base: Path, adapter: Path, merged: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlavaConfig

    folders = []
    for folder in (base, merged):
        wrapped = _change_model(folder, tmp_path / folder.name, lambda _, value: value, prefix="language_model.")
        LlavaConfig(text_config=LlamaConfig.from_pretrained(folder), tie_word_embeddings=True).save_pretrained(wrapped)
        folders.append(wrapped)
    check, plain = _compare(folders[0], adapter, folders[1]), _compare(base, adapter, merged)
    assert check == plain


def test_says_that_a_mixture_of_experts_was_not_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = make_base(tmp_path / "base", "mixtral", num_local_experts=2, num_experts_per_tok=1)
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["q_proj"])
    assert _compare(base, adapter, _merge(base, adapter, tmp_path / "merged")) is None
    assert "logits were not compared" in caplog.text
    assert (
        "MixtralForCausalLM of transformers has model.layers.0.mlp.gate.weight, model.layers.0.mlp.experts"
        in caplog.text
    )


def _compare(base: Path | Shards, adapter: Path, merged: Path, *, dtype: Any = "float16") -> LogitCheck | None:
    shards = base if isinstance(base, Shards) else open_shards(base)
    request = MergeRequest(base=shards.folder, adapter=adapter, out_dir=merged, dtype=dtype)
    reporter = LogReporter(logging.getLogger("logits"))
    return compare_logits(shards, open_adapter(adapter, shards), open_shards(merged), request, reporter)


def _merge_as_if(base: Path, adapter: Path, folder: Path, **config: Any) -> Path:
    """A merge of an adapter that its configuration describes wrongly for the while."""
    path = adapter / "adapter_config.json"
    right = path.read_text(encoding="utf-8")
    path.write_text(json.dumps(json.loads(right) | config), encoding="utf-8")
    try:
        return _merge(base, adapter, folder)
    finally:
        path.write_text(right, encoding="utf-8")


def _merge(base: Path, adapter: Path, folder: Path, dtype: str = "float16", values: Shards | None = None) -> Path:
    """PEFT's own merge, in float32 and cast once; `values` take the place of the base's."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if values is not None:
        model.load_state_dict({name: values.read(name) for name in values.shapes}, strict=False)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    merged.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def _spread_of_peft(base: Path, adapter: Path) -> float:
    """The logits' spread of PEFT's model on the ids that are probed."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    generator = torch.Generator().manual_seed(logits._SEED)
    ids = torch.randperm(model.config.vocab_size, generator=generator)[: logits._IDS]
    with torch.no_grad():
        computed = PeftModel.from_pretrained(model, str(adapter)).eval()(ids[None, : logits._TOKENS]).logits
    return float(computed[0][:, ids].std())


def _change_model(
    model: Path,
    folder: Path,
    change: Callable[[str, Any], Any],
    extra: dict[str, Any] | None = None,
    *,
    prefix: str = "",
) -> Path:
    """A copy of a model in one file, each tensor changed."""
    from safetensors.torch import save_file

    shutil.copytree(model, folder)
    shards = open_shards(model)
    tensors = {prefix + name: change(name, shards.read(name)).contiguous() for name in shards.shapes}
    save_file({**tensors, **(extra or {})}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _configure(model: Path, **fields: Any) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")
