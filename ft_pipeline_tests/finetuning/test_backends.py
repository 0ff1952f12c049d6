"""What the recipe's options do in both backends."""

from __future__ import annotations

import logging
import math
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import TrainingError
from ft_pipeline.finetuning.backends import BACKENDS
from ft_pipeline.finetuning.backends.adapter import list_linear, lora_arguments
from ft_pipeline.finetuning.batches import lay_flat, pad_rows
from ft_pipeline.finetuning.device import find_device
from ft_pipeline.finetuning.optimizers import make_optimizer, make_optimizer_groups
from ft_pipeline.merging.merge import MergeRequest, merge_adapter
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.recipe import TrainingSection
from ft_pipeline_tests.finetuning.families import LLAMA_LINEAR, PHI3_LINEAR, in_own_process, make_family

both_backends = pytest.mark.parametrize("backend", BACKENDS)
slow = pytest.mark.slow


@cache
def _probe(backend: str) -> dict[str, Any]:
    found: dict[str, Any] = in_own_process("probe_options", backend=backend)
    return found


@slow
@both_backends
def test_rslora_scales_by_the_root_of_the_rank(backend: str) -> None:
    found = _probe(backend)
    assert found["plain"]["scales"] == [8 / 4]
    assert found["rslora"]["scales"] == [8 / math.sqrt(4)]
    assert found["rslora"]["losses"] != found["plain"]["losses"]


@slow
@both_backends
def test_dora_trains_a_magnitude_for_each_target(backend: str) -> None:
    found = _probe(backend)
    plain, trained = (set(found[name]["trained"]) for name in ("plain", "dora"))
    added = {name.split(".lora_magnitude_vector")[0].rsplit(".", 1)[-1] for name in trained - plain}
    assert len(trained - plain) == 2 * 7
    assert added == set(LLAMA_LINEAR)
    assert found["dora"]["without_gradient"] == []


@slow
@both_backends
def test_modules_to_save_are_trained_whole(backend: str) -> None:
    found = _probe(backend)
    added = set(found["modules_to_save"]["trained"]) - set(found["plain"]["trained"])
    assert added == {"lm_head.modules_to_save.default.weight", "model.embed_tokens.modules_to_save.default.weight"}
    assert found["modules_to_save"]["without_gradient"] == []
    assert found["modules_to_save"]["dtypes"] == ["torch.float32"]


@slow
@both_backends
def test_dropout_makes_the_same_rows_differ(backend: str) -> None:
    found = _probe(backend)
    assert len(set(found["dropout"]["losses"])) == 2
    assert len(set(found["plain"]["losses"])) == 1


@slow
@both_backends
def test_neftunes_noise_is_that_of_the_rows_however_they_lie_and_in_their_step_only(backend: str) -> None:
    noisy, plain = _probe(backend)["neftune"], _probe(backend)["plain"]["losses"][0]
    assert noisy["padded"] == pytest.approx(noisy["packed"], rel=1e-5)
    assert noisy["alone"] == pytest.approx(noisy["packed"], rel=1e-5)
    assert noisy["packed"] != pytest.approx(plain, rel=1e-3)
    assert noisy["other_step"] != pytest.approx(noisy["packed"], rel=1e-3)
    assert noisy["no_step"] == pytest.approx(plain, rel=1e-6)


@slow
@both_backends
def test_only_the_named_modules_are_trained(backend: str) -> None:
    found = _probe(backend)["few_targets"]
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in found["trained"]} == {"q_proj", "down_proj"}


@slow
@both_backends
def test_the_seed_decides_how_the_adapter_starts(backend: str) -> None:
    found = _probe(backend)
    assert found["plain"]["first_a"] == found["few_targets"]["first_a"]
    assert found["plain"]["first_a"] != found["other_seed"]["first_a"]


@slow
@both_backends
def test_an_evaluation_between_steps_changes_no_gradient(backend: str) -> None:
    found = _probe(backend)["evaluation_between"]
    assert found["gradient_difference"] == 0


@slow
@both_backends
def test_layers_computed_twice_give_the_same_gradients(backend: str) -> None:
    found = _probe(backend)["checkpointing"]
    assert found["checkpointed"] == [0, 2, 0]
    assert max(found["gradient_differences"]) < 1e-6


_VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "whole_head": {"modules_to_save": ["lm_head", "norm"]},
}


@pytest.mark.long
@slow
@both_backends
def test_a_saved_adapter_merges_into_the_model_that_was_trained(backend: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    saved = in_own_process("save_adapters", backend=backend, folder=str(tmp_path), variants=_VARIANTS)
    expected = {name: torch.tensor(logits) for name, logits in saved.items()}
    # Weights are rounded to 11 bits, the rest is fp32: a hundredth of the logits' spread is above that.
    tolerance = 0.01 * float(expected["plain"].std())
    ids = torch.arange(5, 65).unsqueeze(0)
    for name in _VARIANTS:
        out_dir = tmp_path / f"merged_{name}"
        out_dir.mkdir()
        request = MergeRequest(base=tmp_path / "base", adapter=tmp_path / name, out_dir=out_dir)
        merge_adapter(request, LogReporter(logging.getLogger("merge")))
        with torch.no_grad():
            found = AutoModelForCausalLM.from_pretrained(out_dir, dtype=torch.float32)(ids).logits[0]
        assert float((found - expected[name]).abs().max()) < tolerance
        if name != "plain":
            assert float((found - expected["plain"]).abs().max()) > 10 * tolerance


@pytest.mark.gpu
@both_backends
def test_a_gpu_packs_rows_and_switches_layers_as_the_cpu_does(backend: str) -> None:
    if not find_device("auto").is_gpu:
        pytest.skip("needs a CUDA device")
    found = in_own_process("probe_gpu", backend=backend)
    assert found["checkpointed"] == ([1, 0, 1, 2] if backend == "unsloth" else [2, 0, 2, 2])
    assert found["packed"] == pytest.approx(found["alone"], rel=0.01)
    assert found["packed_beside_another"] == pytest.approx(found["packed"][1:], rel=0.01)
    assert max(found["gradient_differences"]) < 0.1
    assert found["dtypes"] == ["torch.float32"]


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("family", "is_lean"), [("llama", True), ("mistral", True), ("qwen2", True), ("qwen3", True), ("gemma2", False)]
)
def test_layers_computed_twice_on_a_gpu_have_the_gradients_of_kept_ones(family: str, is_lean: bool) -> None:
    if not find_device("auto").is_gpu:
        pytest.skip("needs a CUDA device")
    found = in_own_process("probe_recompute", backend="unsloth", family=family)
    assert found["is_lean"] == is_lean
    assert found["checkpointed"] == [0, 2, 0]
    assert max(found["gradient_differences"]) < 0.01


@pytest.fixture(scope="module", autouse=True)
def _libraries() -> None:
    """What third parties warn of while they are imported is not ours to fail on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import peft
        import transformers

        assert peft.LoraConfig
        assert transformers.LlamaForCausalLM


def _load(folder: Path, family: str, **config: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(make_family(folder / family, family, **config))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return _load(tmp_path_factory.mktemp("models"), "llama")


@pytest.fixture(scope="module")
def phi3(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return _load(tmp_path_factory.mktemp("models"), "phi3")


def test_all_linear_leaves_the_output_layer_out(llama: Any, phi3: Any) -> None:
    assert list_linear(llama) == LLAMA_LINEAR
    assert list_linear(phi3) == PHI3_LINEAR


def _adapt(model: Any, settings: TrainingSection) -> Any:
    from copy import deepcopy

    from peft import LoraConfig, get_peft_model

    arguments = lora_arguments(model, settings)
    return get_peft_model(deepcopy(model), LoraConfig(task_type="CAUSAL_LM", **arguments))


def _settings(**lora: Any) -> TrainingSection:
    return TrainingSection.model_validate({"learning_rate": 1e-3, "weight_decay": 0.01, "lora": lora})


def _rates(model: Any, groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_a_layer_in_4_bits_is_not_trained_whole(llama: Any) -> None:
    from bitsandbytes.nn import Linear4bit

    layer = Linear4bit(64, 64, bias=False, quant_type="nf4").to("cpu")
    with pytest.raises(TrainingError, match=r"must be modules in 16 bits, got o_proj: .*load_in_4bit: false"):
        lora_arguments(_Replaced(llama, o_proj=layer), _settings(modules_to_save=["lm_head", "o_proj"]))
    assert lora_arguments(llama, _settings(modules_to_save=["o_proj"]))["modules_to_save"] == ["o_proj"]


class _Replaced:
    """A model with other modules under some names."""

    def __init__(self, model: Any, **modules: Any) -> None:
        self.model, self.modules = model, modules

    def named_modules(self) -> Any:
        for name, module in self.model.named_modules():
            yield name, self.modules.get(name.rsplit(".", 1)[-1], module)


def test_b_matrices_learn_faster_by_the_ratio(llama: Any) -> None:
    settings = _settings(loraplus_lr_ratio=16, use_dora=True, modules_to_save=["lm_head"])
    model = _adapt(llama, settings)
    rates = _rates(model, make_optimizer_groups(model, settings))
    assert set(rates) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {rate for name, rate in rates.items() if ".lora_B." in name} == {(16e-3, 0.01)}
    assert {rate for name, rate in rates.items() if ".lora_A." in name or "modules_to_save" in name} == {(1e-3, 0.01)}
    assert {rate for name, rate in rates.items() if "magnitude" in name} == {(1e-3, 0.0)}


def test_b_matrices_are_those_of_pefts_own_loraplus(llama: Any) -> None:
    import torch
    from peft.optimizers import create_loraplus_optimizer

    settings = _settings(loraplus_lr_ratio=16)
    model = _adapt(llama, settings)
    theirs = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16, loraplus_weight_decay=0.01
    )
    assert _rates(model, make_optimizer_groups(model, settings)) == _rates(model, theirs.param_groups)


def test_all_learn_alike_without_loraplus(llama: Any) -> None:
    settings = _settings()
    model = _adapt(llama, settings)
    assert set(_rates(model, make_optimizer_groups(model, settings)).values()) == {(1e-3, 0.01)}


@both_backends
def test_flat_rows_are_told_by_their_bounds(backend: str) -> None:
    import numpy as np

    rows = [(np.arange(length), np.arange(length)) for length in (3, 5)]
    found = BACKENDS[backend].adapt(lay_flat(rows, pad_id=0, multiple=16), find_device("cpu"))
    assert found["input_ids"].shape == found["labels"].shape == found["position_ids"].shape == (1, 16)
    assert found["cu_seq_lens_q"].tolist() == found["cu_seq_lens_k"].tolist() == [0, 3, 8, 16]
    assert found["max_length_q"] == found["max_length_k"] == 8


@both_backends
def test_padded_rows_are_passed_on_as_they_are(backend: str) -> None:
    import numpy as np

    batch = pad_rows([(np.arange(3), np.arange(3)), (np.arange(2), np.arange(2))], pad_id=0)
    found = BACKENDS[backend].adapt(batch, find_device("cpu"))
    for name, tensor in batch.items():
        assert found[name].tolist() == tensor.tolist()


def test_an_8_bit_optimizer_that_does_not_wait_steps_like_the_library() -> None:
    import torch
    from bitsandbytes.optim import AdamW

    def train(make: Any) -> list[Any]:
        torch.manual_seed(0)
        # One tensor with 8-bit moments, one that is too small for them, one without a gradient.
        model = torch.nn.ParameterDict({name: torch.nn.Parameter(torch.randn(n)) for name, n in _SIZES.items()})
        optimizer = make(model)
        for _ in range(3):
            for name in ("large", "small"):
                model[name].grad = torch.randn_like(model[name])
            optimizer.step()
        return list(model.parameters())

    arguments = {"lr": 0.01, "optim_bits": 8}
    settings = TrainingSection(learning_rate=0.01, weight_decay=0.0)
    ours = train(lambda model: make_optimizer(AdamW, arguments, model, settings))
    theirs = train(lambda model: AdamW(model.parameters(), weight_decay=0.0, **arguments))
    assert all(torch.equal(left, right) for left, right in zip(ours, theirs, strict=True))


_SIZES = {"large": 8192, "small": 64, "idle": 64}
