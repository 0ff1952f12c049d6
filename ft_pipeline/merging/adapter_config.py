"""An adapter's configuration: what of `peft.LoraConfig` a merge knows, and LoRA's factor of each module."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ft_pipeline.errors import ConversionError

CONFIG_FILE = "adapter_config.json"
# Read here, or without a say in the arithmetic of a merge.
_KNOWN = {
    *("peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision"),
    *("inference_mode", "runtime_config", "lora_dropout", "init_lora_weights", "eva_config", "qalora_group_size"),
    *("corda_config", "lora_ga_config", "loftq_config"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "bias"),
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias", "fan_in_fan_out"),
    *("ensure_weight_tying", "megatron_core"),
}
# Starts that change the base too (peft/tuners/lora/layer.py, *_init): the adapter belongs to that other base.
_CHANGE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Other methods under the name of a start.
_OTHER_METHODS = ("mica",)


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Read adapter_config.json.

    Raises:
        ConversionError: it is missing, of another method than LoRA, or asks for something that a merge cannot do.
    """
    path = folder / CONFIG_FILE
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = config.get("peft_type")
    except (OSError, ValueError, AttributeError) as err:
        raise ConversionError(f"an adapter must have a readable {CONFIG_FILE}; {path}: {err}") from err
    if kind != "LORA":
        raise ConversionError(f"an adapter must be of the type LORA, got {kind!r} in {path}.")
    unknown = [f"{name}: {json.dumps(value)}" for name, value in config.items() if value and name not in _KNOWN]
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_OTHER_METHODS):
        unknown.append(f"init_lora_weights: {json.dumps(start)}")
    if unknown:
        raise ConversionError(
            f"an adapter can be merged if it is LoRA, rsLoRA or DoRA on linear layers and embeddings; {path} says "
            f"{'; '.join(unknown)}. Merge it with PEFT's merge_and_unload, or train without."
        )
    if isinstance(start, str) and start.lower().startswith(_CHANGE_BASE):
        raise ConversionError(
            f"an adapter must be merged with the base that it was trained on; {path} says init_lora_weights: {start}, "
            "which changes the base before training. Save the adapter with PEFT's "
            "path_initial_model_for_weight_conversion, which makes it one for the published base."
        )
    return config


def resolve_scaling(module: str, config: Mapping[str, Any]) -> tuple[int, float]:
    """Rank and LoRA's factor of one module, as PEFT finds them (`LoraModel._create_and_replace`, `update_layer`)."""
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    rank = ranks.get(_find_pattern(ranks, module), config.get("r", 8))
    alpha = alphas.get(_find_pattern(alphas, module), config.get("lora_alpha", 8))
    return rank, alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _find_pattern(patterns: Iterable[str], module: str) -> str:
    """`peft.utils.get_pattern_key`: PEFT takes seconds to import."""
    return next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", module)), module)
