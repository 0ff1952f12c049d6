"""The adapter that the recipe asks for, on any model: which modules it changes, and what of them is trained."""

from __future__ import annotations

from typing import Any

from ft_pipeline.errors import TrainingError
from ft_pipeline.recipe import TrainingSection


def lora_arguments(model: Any, settings: TrainingSection) -> dict[str, Any]:
    """The recipe's adapter in the words of `peft.LoraConfig`; Unsloth's `get_peft_model` takes the same ones.

    Its names are checked before (`architecture.find_targets`, `count_saved_parameters`).

    Raises:
        TrainingError: a module that shall be trained whole is loaded in 4 bits.
    """
    lora = settings.lora
    _require_floats(model, lora.modules_to_save)
    return {
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list_linear(model) if isinstance(lora.target_modules, str) else list(lora.target_modules),
        "modules_to_save": list(lora.modules_to_save) or None,
        "use_rslora": lora.use_rslora,
        "use_dora": lora.use_dora,
        "bias": "none",
    }


def _require_floats(model: Any, wanted: tuple[str, ...]) -> None:
    named = [(name, module) for name, module in model.named_modules() if wanted and name.endswith(wanted)]
    quantized = {
        name.rsplit(".", 1)[-1]
        for name, module in named
        if not all(weight.is_floating_point() for weight in module.parameters(recurse=False))
    }
    if quantized:
        raise TrainingError(
            f"training.lora.modules_to_save must be modules in 16 bits, got {', '.join(sorted(quantized))}: linear "
            "layers are loaded in 4. Set training.load_in_4bit: false, or name them in training.lora.target_modules."
        )


def train_in_float32(model: Any) -> None:
    """Keep what is trained in fp32, whatever the base is kept in.

    A step of AdamW at 2e-4 is often below the 8 bits of a bf16 weight and would be lost.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def list_linear(model: Any) -> list[str]:
    """Names of the model's linear layers, quantized or not, but for the output layer: what `all-linear` stands for."""
    import torch

    head = model.get_output_embeddings()
    linear = (
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
    )
    return sorted({name.rsplit(".", 1)[-1] for name in linear})
