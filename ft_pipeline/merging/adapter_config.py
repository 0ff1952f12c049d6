"""An adapter's configuration: what of `peft.LoraConfig` a merge knows, and LoRA's factor of each module."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from ft_pipeline.errors import ConversionError
from ft_pipeline.listing import tell_some

CONFIG_FILE = "adapter_config.json"
# Without a say in the arithmetic of a merge; `LoraConfig` has those that have one.
_WITHOUT_EFFECT = {
    *("peft_version", "task_type", "auto_mapping", "revision", "inference_mode", "runtime_config", "lora_dropout"),
    *("eva_config", "qalora_group_size", "corda_config", "lora_ga_config", "loftq_config"),
    *("ensure_weight_tying", "megatron_core"),
}
# Starts that change the base too (peft/tuners/lora/layer.py, *_init): the adapter belongs to that other base.
_CHANGE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Other methods under the name of a start.
_OTHER_METHODS = ("mica",)
_SHOWN = 3


def _compiles(pattern: str) -> str:
    try:
        re.compile(f"({pattern})")
    except re.error as err:
        raise ValueError(f"must be a regular expression: {err}") from err
    return pattern


_Pattern = Annotated[str, AfterValidator(_compiles)]
_Rank = Annotated[int, Field(ge=1)]


class LoraConfig(BaseModel):
    """The fields of `peft.LoraConfig` that count for a merge, under PEFT's names and with its defaults."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    peft_type: str
    base_model_name_or_path: str | None = None
    r: _Rank = 8
    lora_alpha: FiniteFloat = 8.0
    rank_pattern: dict[_Pattern, _Rank] | None = None
    alpha_pattern: dict[_Pattern, FiniteFloat] | None = None
    use_rslora: bool | None = None
    use_dora: bool | None = None
    fan_in_fan_out: bool | None = None
    init_lora_weights: bool | str | None = None
    target_modules: list[str] | _Pattern | None = None
    exclude_modules: list[str] | _Pattern | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[_Pattern] | _Pattern | None = None
    modules_to_save: list[str] | None = None
    bias: str | None = None
    lora_bias: bool | None = None

    def resolve_scaling(self, module: str) -> tuple[int, float]:
        """Rank and factor of one module, as PEFT finds them (`LoraModel._create_and_replace`, `update_layer`)."""
        ranks, alphas = self.rank_pattern or {}, self.alpha_pattern or {}
        rank = ranks.get(_find_pattern(ranks, module), self.r)
        alpha = alphas.get(_find_pattern(alphas, module), self.lora_alpha)
        return rank, alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def read_adapter_config(folder: Path) -> LoraConfig:
    """Read adapter_config.json.

    Raises:
        ConversionError: it is missing or malformed, of another method than LoRA, or asks for something that a merge
            cannot do.
    """
    path = folder / CONFIG_FILE
    try:
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = said.get("peft_type")
    except (OSError, ValueError, AttributeError, RecursionError) as err:
        raise ConversionError(f"an adapter must have a readable {CONFIG_FILE}; {path}: {err}") from err
    if kind != "LORA":
        raise ConversionError(f"an adapter must be of the type LORA, got {kind!r} in {path}.")
    try:
        config = LoraConfig.model_validate(said)
    except ValidationError as err:
        found = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}, got {each['input']!r}" for each in err.errors()]
        raise ConversionError(
            f"an adapter's configuration must be as PEFT writes it; {path} says {tell_some(found, _SHOWN)}. "
            "Save the adapter again with PEFT."
        ) from err
    _require_mergeable(said, config.init_lora_weights, path)
    return config


def _require_mergeable(said: Mapping[str, Any], start: bool | str | None, path: Path) -> None:
    known = _WITHOUT_EFFECT | LoraConfig.model_fields.keys()
    unknown = [f"{name}: {json.dumps(value)}" for name, value in said.items() if value and name not in known]
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


def _find_pattern(patterns: Iterable[str], module: str) -> str:
    """`peft.utils.get_pattern_key`: PEFT takes seconds to import."""
    return next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", module)), module)
