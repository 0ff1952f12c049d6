"""What our optimizers do beyond the library's: paged again after a checkpoint, and clear when memory is short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: TID253

from ft_pipeline.errors import MemoryBudgetError
from ft_pipeline.finetuning.backends import BACKENDS
from ft_pipeline.finetuning.optimizers import make_optimizer
from ft_pipeline.finetuning.state_tree import flatten_state, unflatten_state
from ft_pipeline.recipe import TrainingSection
from ft_pipeline_tests.finetuning.training_runs import make_request, start

_SETTINGS = TrainingSection.model_validate({"learning_rate": 0.01, "lora": {"rank": 64}})


def make_model() -> Any:
    """One tensor whose moments are paged, and one that is too small."""
    torch.manual_seed(0)
    return torch.nn.ParameterDict({"large": torch.randn(8192), "small": torch.randn(64)})


def train(model: Any, optimizer: Any, steps: int) -> None:
    for _ in range(steps):
        for parameter in model.values():
            parameter.grad = torch.sin(parameter.detach() * 3)
        optimizer.step()


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Paged tensors, which only a GPU has, by fakes; those that were made."""
    from bitsandbytes.optim.optimizer import Optimizer8bit

    made: list[Any] = []

    def get_state_buffer(_optimizer: Any, parameter: Any, dtype: Any) -> Any:
        buffer = torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
        if parameter.numel() > 1000:
            buffer.is_paged = True
            made.append(buffer)
        return buffer

    monkeypatch.setattr(Optimizer8bit, "get_state_buffer", get_state_buffer)
    monkeypatch.setattr(Optimizer8bit, "prefetch_state", lambda *_: None)
    return made


def test_moments_from_a_checkpoint_are_paged_again_and_the_same(pages: list[Any]) -> None:
    from bitsandbytes.optim import AdamW

    def make(model: Any) -> Any:
        return make_optimizer(AdamW, {"lr": 0.01, "optim_bits": 8, "is_paged": True}, model, _SETTINGS)

    undisturbed, model = make_model(), make_model()
    train(undisturbed, make(undisturbed), 5)
    first, second = make(model), make(model)
    train(model, first, 3)
    pages.clear()
    second.load_state_dict(unflatten_state(*flatten_state(first.state_dict())))
    assert len(pages) == 2
    of_large, of_small = second.state[model["large"]], second.state[model["small"]]
    for name in ("state1", "state2"):
        assert any(of_large[name] is page for page in pages)
        assert of_large[name].equal(first.state[model["large"]][name])
        assert not hasattr(of_small[name], "is_paged")
    train(model, second, 2)
    assert all(model[name].equal(weight) for name, weight in undisturbed.items())


class Short(torch.optim.SGD):  # type: ignore[misc]
    """Finds no memory, or fails otherwise."""

    def __init__(self, groups: Any, error: Exception) -> None:
        super().__init__(groups, lr=0.1)
        self.error = error

    def step(self, closure: Any = None) -> Any:  # noqa: ARG002
        raise self.error


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nmore"), RuntimeError("CUDA error: out of memory")],
)
def test_short_memory_in_the_optimizers_step_says_what_to_change(error: Exception) -> None:
    optimizer = make_optimizer(Short, {"error": error}, make_model(), _SETTINGS)
    with pytest.raises(
        MemoryBudgetError,
        match=r"the optimizer's step must fit the device .* does not: CUDA .*out of memory[^\n]*\. Free the device or "
        r"raise gpu\.vram_limit_gib, and the run goes on from its last checkpoint; or lower training\.lora\.rank "
        r"\(now 64\) or take training\.optimizer paged_adamw_8bit",
    ) as raised:
        optimizer.step()
    assert raised.value.__cause__ is error


def test_another_error_of_the_optimizer_stays_what_it_is() -> None:
    optimizer = make_optimizer(Short, {"error": RuntimeError("sizes differ")}, make_model(), _SETTINGS)
    with pytest.raises(RuntimeError, match="sizes differ"):
        optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_8_bit_optimizer_steps_on_the_cpu_as_well(backend: str, tiny_base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    lora = {"rank": 32, "alpha": 16, "dropout": 0.0}  # matrices large enough for 8-bit moments
    settings = {"backend": backend, "optimizer": "adamw_8bit", "load_in_4bit": False, "lora": lora}
    request = make_request(tmp_path, tiny_base, settings)
    outcome = start(request).finish()
    assert outcome["figures"]["optimizer"] == "adamw_8bit", outcome
    checkpoint = max(request.checkpoints.glob("step-*"))
    moments = [tensor for tensor in load_file(checkpoint / "state.safetensors").values() if tensor.numel() >= 32 * 256]
    assert moments
    assert {tensor.dtype for tensor in moments} == {torch.uint8}
