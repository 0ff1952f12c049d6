"""What linear layers are given, against the merged model's own inputs, row by row."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ft_pipeline.finetuning.backends import BACKENDS
from ft_pipeline.finetuning.backends.plain_layers import plain_layers
from ft_pipeline.finetuning.batches import RowTable
from ft_pipeline.finetuning.device import find_device
from ft_pipeline.finetuning.importance import (
    IMPORTANCE_FILE,
    Importance,
    choose_rows,
    find_matrices,
    measure_importance,
    write_importance,
)
from ft_pipeline.finetuning.step_runner import Batches, StepRunner
from ft_pipeline.quantization.imatrix import read_importance
from ft_pipeline_tests.finetuning.families import make_family, make_job
from ft_pipeline_tests.finetuning.training_runs import make_request, start, write_rows

both_backends = pytest.mark.parametrize("backend", BACKENDS)
_TOKENS = 300


@pytest.fixture(scope="module", autouse=True)
def _libraries() -> None:
    """What third parties warn of while they are imported is not ours to fail on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import peft
        import transformers

        assert peft.LoraConfig
        assert transformers.LlamaForCausalLM


def test_the_first_rows_are_read_until_there_are_enough_tokens() -> None:
    assert choose_rows([5, 5, 5], 1) == (0,)
    assert choose_rows([5, 5, 5], 10) == (0, 1)
    assert choose_rows([5, 5, 5], 11) == (0, 1, 2)
    assert choose_rows([5, 5, 5], 99) == (0, 1, 2)


def _measure(folder: Path, model: Any, *, packing: bool, told: list[str] | None = None) -> Importance:
    """Through the real machinery of a training on the CPU, without the training."""
    write_rows(folder / "rows.parquet", 12)
    job = make_job(folder, folder, {"backend": "trl"}, packing=packing, micro_batch_rows=4, row_tokens=21)
    table = RowTable(folder / "rows.parquet", folder / "datasets")
    batches = Batches(table, BACKENDS["trl"], job.device, pad_id=2)
    runner = StepRunner(job, batches, [], tell=pytest.fail)
    tell = pytest.fail if told is None else told.append
    return measure_importance(model, runner, lambda batch, _: model(**batch).loss, 100, tell)


def _adapt(folder: Path, family: str, **config: Any) -> Any:
    """A base with an adapter that changes what it computes."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from ft_pipeline.finetuning.varlen import register_attention

    base = AutoModelForCausalLM.from_pretrained(
        make_family(folder / family, family, **config), attn_implementation=register_attention()
    )
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", lora_dropout=0.5))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    return model


def _mean_squares(model: Any, rows: list[list[int]]) -> dict[str, Any]:
    """The definition, in fp64, one row at a time, on a model without an adapter."""
    import torch

    inputs: dict[str, list[Any]] = {}

    def keep(name: str) -> Any:
        return lambda _module, states: inputs.setdefault(f"{name}.weight", []).append(states[0][0].double())

    hooks = [
        module.register_forward_pre_hook(keep(name))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    with torch.no_grad():
        for row in rows:
            model(torch.tensor([row]))
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(found).square().mean(dim=0).numpy() for name, found in inputs.items()}


def _read_rows(path: Path, count: int) -> list[list[int]]:
    rows: list[list[int]] = pl.read_parquet(path)["input_ids"].to_list()[:count]
    return rows


def _largest_difference(found: Importance, wanted: dict[str, Any]) -> float:
    assert set(found.values) == set(wanted)
    return max(float(np.abs(found.values[name] / values - 1).max()) for name, values in wanted.items())


def _layer_differences(found: Importance, wanted: dict[str, Any]) -> list[float]:
    """Of each matrix: the mean difference of its columns over their mean."""
    assert set(found.values) == set(wanted)
    return [float(np.abs(found.values[name] - values).sum() / values.sum()) for name, values in wanted.items()]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "phi3"])
@pytest.mark.parametrize("packing", [True, False])
def test_it_is_the_mean_square_of_what_the_merged_models_layers_are_given(
    family: str, packing: bool, tmp_path: Path
) -> None:
    model = _adapt(tmp_path, family)
    found = _measure(tmp_path, model, packing=packing)
    rows = _read_rows(tmp_path / "rows.parquet", found.rows)
    assert found.tokens == sum(map(len, rows)) >= 100
    assert _largest_difference(found, _mean_squares(model.merge_and_unload().eval(), rows)) < 1e-3


def test_a_layer_that_is_trained_whole_is_the_one_that_is_heard(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(make_family(tmp_path / "llama", "llama"))
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], modules_to_save=["o_proj", "lm_head"])
    names = set(_measure(tmp_path, get_peft_model(base, config), packing=False).values)
    assert {"lm_head.weight", "model.layers.0.self_attn.o_proj.weight"} < names
    assert len(names) == 2 * 7 + 1


def test_matrices_that_are_no_linear_layers_are_told_of(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 64, "moe_intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 420}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 2}
    experts = {"num_experts": 4, "num_experts_per_tok": 2}
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **sizes, **heads, **experts))
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"]))
    told: list[str] = []
    found = _measure(tmp_path, model, packing=False, told=told)
    assert "model.layers.1.self_attn.o_proj.weight" in found.values
    assert not [name for name in found.values if "experts" in name]
    assert len(told) == 1
    assert told[0].startswith("6 matrices have no importance, because they are no linear layers of their own")
    assert "model.layers.0.mlp.experts.down_proj" in told[0]


def test_a_layer_that_is_given_no_numbers_is_told_of(tmp_path: Path) -> None:
    import torch

    model = _adapt(tmp_path, "llama")
    with torch.no_grad():
        model.get_base_model().model.layers[1].mlp.up_proj.base_layer.weight[3] = torch.inf
    told: list[str] = []
    found = _measure(tmp_path, model, packing=False, told=told)
    assert "model.layers.1.mlp.up_proj.weight" in found.values
    assert told[0].startswith("2 matrices have no importance")
    assert "lm_head.weight, model.layers.1.mlp.down_proj.weight" in told[0]


def test_a_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = _adapt(tmp_path, "llama")
    _measure(tmp_path, model, packing=False)
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_fused_layers_are_called_one_by_one_for_a_while(tmp_path: Path) -> None:
    model = _adapt(tmp_path, "llama")
    layer = model.get_base_model().model.layers[0]

    def fused(*_: object) -> None:
        """Stands in for Unsloth's kernels, which need a GPU."""

    layer.self_attn.apply_qkv = layer.self_attn.apply_o = layer.mlp.forward = fused
    called = []
    for name, linear in find_matrices(model).linear.items():
        linear.register_forward_pre_hook(lambda _module, _inputs, name=name: called.append(name))
    states = layer.self_attn.q_proj.weight.new_ones(1, 3, 64)
    with plain_layers(model):
        assert len(layer.self_attn.apply_qkv(layer.self_attn, states)) == 3
        layer.self_attn.apply_o(layer.self_attn, states)
        layer.mlp(states)
    assert [name.split(".")[4] for name in called] == [
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    ]
    assert layer.self_attn.apply_qkv is layer.self_attn.apply_o is layer.mlp.forward is fused


def test_what_is_written_is_read(tmp_path: Path) -> None:
    wanted = Importance({"lm_head.weight": np.arange(3, dtype=np.float32)}, tokens=12, rows=2)
    write_importance(tmp_path, wanted)
    found = read_importance(tmp_path)
    assert found is not None
    assert (found.tokens, found.rows) == (12, 2)
    assert found.values["lm_head.weight"].tolist() == [0, 1, 2]


def test_the_same_is_written_to_the_same_bytes(tmp_path: Path) -> None:
    wanted = Importance({"lm_head.weight": np.arange(3, dtype=np.float32)}, tokens=12, rows=2)
    written = set()
    for _ in range(20):
        write_importance(tmp_path, wanted)
        written.add((tmp_path / "importance.safetensors").read_bytes())
    assert len(written) == 1


def _train(folder: Path, base: Path, device: str, **settings: Any) -> tuple[Importance, dict[str, Any]]:
    """What a whole training has measured, and the merged model's mean squares on the same rows."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    request = make_request(folder, base, {"importance_tokens": _TOKENS, **settings}, device=device)
    outcome = start(request).finish()
    assert "figures" in outcome, outcome
    assert "no importance" not in outcome["said"]
    found = read_importance(request.out_dir)
    assert found is not None
    assert found.tokens == outcome["figures"]["importance_tokens"] >= _TOKENS
    merged = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype="float32"), request.out_dir
    ).merge_and_unload()
    wanted = _mean_squares(merged.eval(), _read_rows(request.rows, found.rows))
    return found, wanted


@pytest.mark.slow
@both_backends
def test_a_training_on_a_cpu_measures_it_at_its_end(backend: str, project: Path, tmp_path: Path) -> None:
    measured = _train(tmp_path, project / "data" / "base_model", "cpu", backend=backend, load_in_4bit=False)
    assert _largest_difference(*measured) < 1e-3


@pytest.mark.long
@pytest.mark.slow
def test_a_4_bit_base_gives_about_what_the_merged_model_does(project: Path, tmp_path: Path) -> None:
    found, wanted = _train(tmp_path, project / "data" / "base_model", "cpu")
    assert 0.01 < np.median(_layer_differences(found, wanted)) < 0.3
    assert max(_layer_differences(found, wanted)) < 0.5


@pytest.mark.slow
def test_a_recipe_without_it_measures_none(tiny_base: Path, tmp_path: Path) -> None:
    request = make_request(tmp_path, tiny_base, {"importance_tokens": 0})
    outcome = start(request).finish()
    assert "importance_tokens" not in outcome["figures"]
    assert not (request.out_dir / IMPORTANCE_FILE).exists()


@pytest.mark.gpu
@both_backends
@pytest.mark.parametrize("lora", [{}, {"target_modules": ["q_proj", "down_proj"]}, {"use_dora": True}])
def test_a_training_on_a_gpu_measures_it_past_the_fused_kernels(
    backend: str, lora: dict[str, Any], project: Path, tmp_path: Path
) -> None:
    if not find_device("auto").is_gpu:
        pytest.skip("needs a CUDA device")
    measured = _train(
        tmp_path,
        project / "data" / "base_model",
        "auto",
        backend=backend,
        load_in_4bit=False,
        lora={"rank": 8, "alpha": 16, "dropout": 0.0, **lora},
    )
    # bf16 has 8 bits, and the rounding of a layer goes into all after it.
    assert max(_layer_differences(*measured)) < 0.05
