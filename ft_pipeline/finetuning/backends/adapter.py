"""The adapter that the recipe asks for, on any model: which modules it changes, and what of them is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from ft_pipeline.errors import TrainingError
from ft_pipeline.recipe import TrainingSection

ALL_LINEAR = "all-linear"


def check_target_modules(model: Any, wanted: Literal["all-linear"] | Sequence[str]) -> list[str]:
    """Names of the linear layers that get an update.

    Args:
        model: The base, quantized or not.
        wanted: The recipe's names; `all-linear` stands for all but the output layer.

    Raises:
        TrainingError: a name is none of the model's; the message lists its names.
    """
    linear = sorted(_find_linear(model))
    if isinstance(wanted, str):
        return linear
    if missing := sorted(set(wanted) - set(linear)):
        raise TrainingError(
            f"training.lora.target_modules must be linear layers of the model; {', '.join(missing)} are not. "
            f"It has: {', '.join(linear)}. The output layer is trained whole, by training.lora.modules_to_save."
        )
    return list(wanted)


def check_modules_to_save(model: Any, wanted: Sequence[str]) -> list[str]:
    """Names of the modules that are trained whole.

    Raises:
        TrainingError: a name is none of the model's, or the base uses it twice.
    """
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if _has_own_weights(module)}
    if missing := sorted(set(wanted) - names):
        raise TrainingError(
            f"training.lora.modules_to_save must be modules of the model with weights; {', '.join(missing)} are not. "
            f"It has: {', '.join(sorted(names))}."
        )
    ends = {_leaf(model, module) for module in (model.get_input_embeddings(), model.get_output_embeddings())}
    if (shared := sorted(ends & set(wanted))) and _is_tied(model):
        raise TrainingError(
            f"training.lora.modules_to_save must not name a tensor that the base uses twice: {', '.join(shared)} is "
            "input embedding and output layer in one (tie_word_embeddings), and a merged model would keep one of them "
            "only. Leave it out, or take a base whose embeddings are not tied."
        )
    return list(wanted)


def lora_arguments(model: Any, settings: TrainingSection) -> dict[str, Any]:
    """The recipe's adapter in the words of `peft.LoraConfig`; Unsloth's `get_peft_model` takes the same ones.

    Raises:
        TrainingError: the model lacks a module that the recipe names.
    """
    lora = settings.lora
    return {
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": check_target_modules(model, lora.target_modules),
        "modules_to_save": check_modules_to_save(model, lora.modules_to_save) or None,
        "use_rslora": lora.use_rslora,
        "use_dora": lora.use_dora,
        "bias": "none",
    }


def train_in_float32(model: Any) -> None:
    """Keep what is trained in fp32, whatever the base is kept in.

    A step of AdamW at 2e-4 is often below the 8 bits of a bf16 weight and would be lost.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _find_linear(model: Any) -> set[str]:
    import torch

    head = model.get_output_embeddings()
    return {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }


def _has_own_weights(module: Any) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _leaf(model: Any, wanted: Any) -> str:
    names: Iterator[str] = (name for name, module in model.named_modules() if module is wanted)
    return next(names, "").rsplit(".", 1)[-1]


def _is_tied(model: Any) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight
