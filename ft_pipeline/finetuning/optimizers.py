"""The optimizer of a training: the class that TRL finds by its name, each part's own rate, no needless waits."""

from __future__ import annotations

from typing import Any

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

    if issubclass(optimizer_class, Optimizer8bit) and not arguments.get("is_paged"):
        optimizer_class = _define_unwaiting(optimizer_class)
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
