"""The optimizer of a training: the class that TRL finds by its name, each part's own rate; fp16's gradient scaler."""

from __future__ import annotations

from typing import Any

from ft_pipeline.errors import MemoryBudgetError
from ft_pipeline.finetuning.ladder import is_out_of_memory
from ft_pipeline.recipe import TrainingSection


def make_optimizer(optimizer_class: Any, arguments: dict[str, Any], model: Any, settings: TrainingSection) -> Any:
    """An optimizer of the model's trainable weights.

    Args:
        optimizer_class: torch's or bitsandbytes'.
        arguments: Its own.
        model: With an adapter.
        settings: Learning rates and decay.
    """
    from bitsandbytes.optim.optimizer import Optimizer8bit

    if issubclass(optimizer_class, Optimizer8bit):
        define = _define_repaging if arguments.get("is_paged") else _define_unwaiting
        optimizer_class = define(optimizer_class)
    optimizer_class = _define_explaining(optimizer_class, settings)
    return optimizer_class(make_optimizer_groups(model, settings), **arguments)


def make_optimizer_groups(model: Any, settings: TrainingSection) -> list[dict[str, Any]]:
    """Trainable parameters with their learning rate and weight decay, as torch's optimizers take them.

    LoRA's B matrices learn faster by the recipe's ratio. Source of LoRA+: Hayou et al. 2024, arXiv:2402.12354. Vectors
    (norms, biases, DoRA's magnitudes) do not decay.
    """
    ratio = settings.lora.loraplus_lr_ratio or 1.0
    groups: dict[tuple[float, float], list[Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = settings.learning_rate * (ratio if ".lora_B." in name else 1.0)
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()]


def capture_scaler(scaler: Any) -> dict[str, Any]:
    """State of fp16's gradient scaler, scale and steps since it grew; empty if there is none."""
    return scaler.state_dict() if scaler is not None else {}


def restore_scaler(scaler: Any, state: dict[str, Any]) -> None:
    """Set the scaler to what `capture_scaler` gave; it stays as it is where a checkpoint holds none."""
    if scaler is not None and state:
        scaler.load_state_dict(state)


def _define_unwaiting(optimizer_class: Any) -> Any:
    """The same updates without a wait for the GPU after each tensor, of which an 8B's adapter has 448.

    bitsandbytes 0.50 waits in its own `step`; only states that are paged need it.
    """
    import torch

    class Unwaiting(optimizer_class):  # type: ignore[misc]
        initialized: bool

        @torch.no_grad()  # type: ignore[untyped-decorator]
        def step(self, closure: Any = None) -> Any:
            loss = None if closure is None else torch.enable_grad()(closure)()
            if not self.initialized:
                self.check_overrides()
                self.to_gpu()
                self.initialized = True
            for group_index, group in enumerate(self.param_groups):
                for index, parameter in enumerate(group["params"]):
                    if parameter.grad is None:
                        continue
                    if not self.state[parameter]:
                        self.init_state(group, parameter, group_index, index)
                    self.update_step(group, parameter, group_index, index)
            return loss

    return Unwaiting


def _define_repaging(optimizer_class: Any) -> Any:
    """Its moments are paged also when they come from a checkpoint, which bitsandbytes 0.50 loads as plain tensors."""
    import torch
    from bitsandbytes.utils import sync_gpu

    class Repaging(optimizer_class):  # type: ignore[misc]
        @torch.no_grad()  # type: ignore[untyped-decorator]
        def load_state_dict(self, state_dict: dict[str, Any], move_to_device: bool = True) -> None:
            # What is paged never lies on the GPU as a whole, not even now.
            super().load_state_dict(state_dict, move_to_device=False)
            for parameter, state in self.state.items():
                for name in {"state1", "state2"} & state.keys():
                    buffer = self.get_state_buffer(parameter, dtype=state[name].dtype)
                    if getattr(buffer, "is_paged", False):
                        sync_gpu(parameter)  # the GPU fills the new buffer with zeros
                        state[name] = buffer.copy_(state[name])
            if move_to_device:
                self.to_gpu()

    return Repaging


def _define_explaining(optimizer_class: Any, settings: TrainingSection) -> Any:
    """When memory is short in its step, it says what to change."""

    class Explaining(optimizer_class):  # type: ignore[misc]
        def step(self, closure: Any = None) -> Any:
            try:
                return super().step(closure)
            except (RuntimeError, MemoryError) as err:
                if not is_out_of_memory(err):
                    raise
                trouble = str(err).split("\n", 1)[0][:300]
                raise MemoryBudgetError(
                    "the optimizer's step must fit the device beside the weights and their gradients and does not: "
                    f"{trouble}. Free the device or raise gpu.vram_limit_gib, and the run goes on from its last "
                    f"checkpoint; or lower training.lora.rank (now {settings.lora.rank}) or take training.optimizer "
                    "paged_adamw_8bit, and it begins anew."
                ) from err

    return Explaining
