"""What a PEFT adapter says it changes, read from its files without PEFT and without a model."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ft_pipeline.errors import ConversionError
from ft_pipeline.merging.shards import Shards

WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_LORA_WEIGHT = re.compile(r"^(?P<module>.+)\.lora_(?:embedding_)?(?P<factor>[AB])(?:\.weight)?$")
_LORA_BIAS = re.compile(r"^(?P<module>.+)\.lora_B\.bias$")
_DORA_MAGNITUDE = re.compile(r"^(?P<module>.+)\.lora_magnitude_vector(?:\.weight)?$")
_SHOWN = 5


@dataclass(frozen=True)
class Target:
    """A tensor of the base that an adapter changes.

    Attributes:
        shape: The shape that the base's tensor must have; a low-rank product may stand
            transposed (embeddings, and layers of the kind `fan_in_fan_out`).
        low_rank: Changed by a product of two factors; otherwise replaced as a whole (`modules_to_save`).
        untrained: A factor is all zero, as it is before training (B; of an embedding, A): nothing changes here.
    """

    shape: tuple[int, ...]
    low_rank: bool
    untrained: bool

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of the base has the right shape."""
        return shape == self.shape or (self.low_rank and shape == self.shape[::-1])


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter's folder.

    Attributes:
        targets: By the name of the base's tensor.
        base: What the adapter's configuration says that it was trained on.
    """

    folder: Path
    targets: dict[str, Target]
    base: str

    @property
    def untrained(self) -> list[str]:
        """The tensors that the adapter targets and does not change."""
        return [name for name, target in self.targets.items() if target.untrained]


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter's configuration and the shapes of its tensors.

    Raises:
        ConversionError: no LoRA adapter, no safetensors, a damaged file, or tensors that are no LoRA's.
    """
    config = _read_config(folder)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in folder.glob("adapter_model*"))) or "no weights"
        raise ConversionError(
            f"an adapter must hold {WEIGHTS_FILE}; {folder} has {found}. A .bin file is not read because loading it "
            "can run code: save the adapter again with safetensors."
        )
    try:
        with safe_open(path, framework="pt") as weights:
            targets = _find_targets(weights)
    except (SafetensorError, OSError) as err:
        raise ConversionError(
            f"an adapter's weights must be whole; {path} is damaged or truncated ({err}). Train or fetch it again."
        ) from err
    if not targets:
        raise ConversionError(f"an adapter must change at least one tensor; {path} holds none.")
    return Adapter(folder, targets, str(config.get("base_model_name_or_path") or "unknown"))


def check_fits(adapter: Adapter, base: Shards) -> None:
    """See that every tensor that the adapter changes is in the base, with its shape.

    Raises:
        ConversionError: the adapter was trained on another base; names and shapes are in the message.
    """
    wrong = []
    for name, target in adapter.targets.items():
        if name not in base.shapes:
            wrong.append(f"{name} {target.shape} is not in the base")
        elif not target.fits(base.shapes[name]):
            wrong.append(f"{name} is {base.shapes[name]} in the base and {target.shape} in the adapter")
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ConversionError(
            f"an adapter must be merged with the base that it was trained on; {adapter.folder} does not fit "
            f"{base.folder}: {'; '.join(wrong[:_SHOWN])}{more}. Its configuration names the base {adapter.base!r}."
        )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = config.get("peft_type")
    except (OSError, ValueError, AttributeError) as err:
        raise ConversionError(f"an adapter must have a readable adapter_config.json; {path}: {err}") from err
    if kind != "LORA":
        raise ConversionError(f"an adapter must be of the type LORA, got {kind!r} in {path}.")
    return config


def _find_targets(weights: Any) -> dict[str, Target]:
    factors: dict[str, dict[str, tuple[int, ...]]] = {}
    untrained: set[str] = set()
    targets: dict[str, Target] = {}
    for key in weights.keys():  # noqa: SIM118 - a safetensors file is no mapping
        # PEFT adds the embedding itself where it is adapted or resized, as ".base_layer.".
        name = key.removeprefix(_PREFIX).replace(".base_layer.", ".")
        shape = tuple(weights.get_slice(key).get_shape())
        if found := _LORA_WEIGHT.match(name):
            tensor = f"{found['module']}.weight"
            factors.setdefault(tensor, {})[found["factor"]] = shape
            if not weights.get_tensor(key).any():
                untrained.add(tensor)
        elif found := _LORA_BIAS.match(name):
            targets[f"{found['module']}.bias"] = Target(shape, False, not weights.get_tensor(key).any())
        elif not _DORA_MAGNITUDE.match(name):
            targets[name] = Target(shape, False, False)
    for tensor, pair in factors.items():
        if pair.keys() != {"A", "B"}:
            raise ConversionError(f"a LoRA adapter must hold two factors for each tensor; {tensor} has {sorted(pair)}.")
        targets[tensor] = Target((*pair["B"][:-1], *pair["A"][1:]), True, tensor in untrained)
    return targets
