"""What a PEFT adapter says it changes, read from its files without PEFT and without a model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ft_pipeline.errors import ConversionError
from ft_pipeline.listing import tell_some
from ft_pipeline.merging.adapter_config import CONFIG_FILE, LoraConfig, read_adapter_config
from ft_pipeline.merging.names import find_names, locate
from ft_pipeline.merging.shards import Shards

WEIGHTS_FILE = "adapter_model.safetensors"
# safetensors' names.
_FLOATS = ("F16", "BF16", "F32", "F64")
_IN_A_LAYER = re.compile(r"\.\d+\.")
_SHOWN = 5


@dataclass(frozen=True)
class Update:
    """How an adapter changes one tensor of the base: value = (whole or base) + what is low-rank or added.

    Keys name tensors of the adapter's file.

    Attributes:
        shape: Of the base's tensor.
        whole: Key of a tensor that takes the base's place (`modules_to_save`, trained biases, saved embeddings).
        a: Key of LoRA's A, (r, in); of an embedding (r, vocabulary).
        b: Key of LoRA's B, (out, r); of an embedding (hidden, r).
        scaling: alpha / r, or alpha / sqrt(r); of the low-rank product and of `added`.
        magnitude: Key of DoRA's magnitudes.
        transposed: The base's tensor is (B A)^T: embeddings, and layers of the kind `fan_in_fan_out`.
        is_embedding: Rows are looked up, not multiplied with.
        added: Key of a vector to add (the bias of LoRA's B).
        untrained: LoRA's B (of an embedding, A) is all zero, as it is before training. DoRA's magnitudes are then the
            norms of what it was trained on: rounded to NF4, these are not the base's.
    """

    shape: tuple[int, ...]
    whole: str | None = None
    a: str | None = None
    b: str | None = None
    scaling: float = 1.0
    magnitude: str | None = None
    transposed: bool = False
    is_embedding: bool = False
    added: str | None = None
    untrained: bool = False

    @property
    def low_rank(self) -> bool:
        """Changed by a product of two factors."""
        return self.a is not None

    @property
    def must_change(self) -> bool:
        """Whether what is written has to differ from the base: a whole tensor may have been trained to nothing."""
        return (self.low_rank or self.added is not None) and not self.untrained


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter's folder.

    Attributes:
        updates: By the name of the base's tensor; before `fit_adapter`, of the model's parameter.
    """

    folder: Path
    updates: dict[str, Update]
    config: LoraConfig

    @property
    def untrained(self) -> list[str]:
        """The tensors that the adapter targets and does not change."""
        return [name for name, update in self.updates.items() if update.untrained]

    def read(self, key: str) -> Any:
        """One tensor of the adapter's file, as a float32 `torch.Tensor` of its own on the CPU."""
        import torch

        return self._weights.get_tensor(key).to(torch.float32, copy=True)

    def slice(self, key: str) -> Any:
        """One tensor of the adapter's file, which is read when it is indexed; what that gives must not be changed.

        It is the file itself, mapped, and every later reader would see the change.
        """
        return self._weights.get_slice(key)

    @cached_property
    def _weights(self) -> Any:
        return safe_open(self.folder / WEIGHTS_FILE, framework="pt")


def open_adapter(folder: Path, base: Shards) -> Adapter:
    """Read an adapter and find the tensors of the base that it changes.

    Raises:
        ConversionError: no LoRA adapter, one that does more than a merge can, a damaged file, or another base's.
    """
    return fit_adapter(read_adapter(folder), base)


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter's configuration and the shapes of its tensors.

    Raises:
        ConversionError: no LoRA adapter, one that does more than a merge can, no safetensors, a damaged file, values
            that are not finite, or tensors that are no LoRA's.
    """
    config = read_adapter_config(folder)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in folder.glob("adapter_model*"))) or "no weights"
        raise ConversionError(
            f"an adapter must hold {WEIGHTS_FILE}; {folder} has {found}. A .bin file is not read because loading it "
            "can run code: save the adapter again with safetensors."
        )
    try:
        with safe_open(path, framework="pt") as weights:
            updates = _find_updates(weights, config, path)
    except (SafetensorError, OSError) as err:
        raise ConversionError(
            f"an adapter's weights must be whole; {path} is damaged or truncated ({err}). Train or fetch it again."
        ) from err
    if not updates:
        raise ConversionError(f"an adapter must change at least one tensor; {path} holds none.")
    return Adapter(folder, updates, config)


def fit_adapter(adapter: Adapter, base: Shards) -> Adapter:
    """Name the updates by the base's tensors, and see that every one of them is there with its shape.

    Raises:
        ConversionError: the adapter was trained on another base; names and shapes are in the message.
    """
    names = find_names(adapter.updates, base.shapes)
    is_transposed = _find_transposed(adapter, base, names)
    fitted: dict[str, Update] = {}
    wrong: list[str] = []
    for name, update in adapter.updates.items():
        found = names[name]
        if found is None:
            wrong.append(f"{name} {update.shape} is not in the base")
            continue
        shape = base.shapes[found]
        is_linear = update.low_rank and not update.is_embedding
        if is_linear and (shape != update.shape or (is_transposed and _is_square(shape))):
            update = replace(update, shape=update.shape[::-1], transposed=True)  # noqa: PLW2901
        if shape != update.shape:
            wrong.append(f"{found} is {shape} in the base and {adapter.updates[name].shape} in the adapter")
        if found in fitted:
            others = [other for other in names if names[other] == found and other != name]
            wrong.append(f"{found} is changed twice, as {others[0]} and as {name}")
        fitted[found] = update
    if wrong:
        said = adapter.config.base_model_name_or_path or "unknown"
        raise ConversionError(
            f"an adapter must be merged with the base that it was trained on; {adapter.folder} does not fit "
            f"{base.folder}: {tell_some(wrong, _SHOWN)}. Its configuration names the base {said!r}."
        )
    return replace(adapter, updates=fitted)


def _find_transposed(adapter: Adapter, base: Shards, names: Mapping[str, str | None]) -> bool:
    """Whether the base's layers store their weights transposed (transformers' Conv1D), where their shape does not say.

    PEFT's configuration says it of the layer that came last, and of layers that do not it is told and not heard.
    """
    found = [
        (update.shape, base.shapes[str(names[name])])
        for name, update in adapter.updates.items()
        if update.low_rank and not update.is_embedding and names[name] and _IN_A_LAYER.search(name)
    ]
    known = [stored == shape[::-1] for shape, stored in found if not _is_square(shape)]
    if known:
        return any(known)
    wide = [shape for name, shape in base.shapes.items() if name.endswith(".c_fc.weight")]
    return bool(adapter.config.fan_in_fan_out) or any(shape[0] < shape[-1] for shape in wide)


def _is_square(shape: tuple[int, ...]) -> bool:
    return len(set(shape)) == 1


@dataclass(frozen=True)
class _Stored:
    """A tensor of the adapter's file."""

    key: str
    shape: tuple[int, ...]
    is_zero: bool


def _find_updates(weights: Any, config: LoraConfig, path: Path) -> dict[str, Update]:
    found: dict[str, dict[str, _Stored]] = {}
    for key in weights.keys():  # noqa: SIM118 - a safetensors file is no mapping
        name, part = locate(key)
        parts = found.setdefault(name, {})
        if part in parts:
            raise ConversionError(
                f"an adapter must hold each tensor once; {path} has {parts[part].key} and {key}, which are the same "
                "one. Save it again with PEFT."
            )
        parts[part] = _look_at(weights, key, path)
    return {name: _make_update(name, parts, config) for name, parts in found.items()}


def _look_at(weights: Any, key: str, path: Path) -> _Stored:
    import torch

    kind = weights.get_slice(key).get_dtype()
    if kind not in _FLOATS:
        raise ConversionError(
            f"an adapter's weights must be floating-point numbers ({', '.join(_FLOATS)}); {key} in {path} is {kind}. "
            "Save it again."
        )
    # As it is stored: a trained embedding in float32 would be larger than all else that a merge has in memory.
    tensor = weights.get_tensor(key)
    low, high = torch.aminmax(tensor) if tensor.numel() else (torch.zeros(()), torch.zeros(()))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ConversionError(
            f"an adapter's weights must be finite numbers; {key} in {path} holds NaN or infinity. Its training "
            "diverged, or the file is damaged: train again with a lower learning rate, or fetch it again."
        )
    return _Stored(key, tuple(tensor.shape), bool(low == 0 == high))


def _make_update(name: str, parts: dict[str, _Stored], config: LoraConfig) -> Update:
    module = name.rpartition(".")[0]
    whole = parts["whole"].key if "whole" in parts else None
    if "added" in parts:
        added = parts["added"]
        if not config.lora_bias:
            raise ConversionError(
                f"an adapter must be configured as it was trained; it holds {added.key}, and its {CONFIG_FILE} does "
                "not say lora_bias, so PEFT leaves that out. Save it again with PEFT."
            )
        scaling = config.resolve_scaling(module)[1]
        return Update(added.shape, whole, scaling=scaling, added=added.key, untrained=added.is_zero and not whole)
    if parts.keys() == {"whole"}:
        return Update(parts["whole"].shape, whole)
    is_embedding = not parts.keys().isdisjoint({"embedding_A", "embedding_B"})
    a, b = (parts.get(f"embedding_{factor}" if is_embedding else factor) for factor in "AB")
    if a is None or b is None:
        raise ConversionError(f"a LoRA adapter must hold two factors for each tensor; {name} has {sorted(parts)}.")
    rank, scaling = config.resolve_scaling(module)
    if len(a.shape) != 2 or len(b.shape) != 2 or not a.shape[0] == b.shape[1] == rank:
        raise ConversionError(
            f"LoRA's factors must be (r, in) and (out, r) with r as configured, {rank}; those of {name} are {a.shape} "
            f"and {b.shape}. Only linear layers and embeddings can be merged."
        )
    _require_magnitudes(name, parts.get("magnitude"), b.shape[0], config)
    shape = (b.shape[0], a.shape[1])
    magnitude = parts["magnitude"].key if "magnitude" in parts else None
    return Update(
        shape=shape[::-1] if is_embedding else shape,
        whole=whole,
        a=a.key,
        b=b.key,
        scaling=scaling,
        magnitude=magnitude,
        transposed=is_embedding,
        is_embedding=is_embedding,
        untrained=(a if is_embedding else b).is_zero,
    )


def _require_magnitudes(name: str, stored: _Stored | None, count: int, config: LoraConfig) -> None:
    wanted = (count,) if config.use_dora else None
    found = stored and stored.shape
    if found != wanted:
        raise ConversionError(
            f"an adapter has DoRA's magnitudes, one for each output, if {CONFIG_FILE} says use_dora, and only then; it "
            f"says {bool(config.use_dora)}, and those of {name} are {found or 'missing'} for {count} outputs. Save "
            "the adapter again with PEFT."
        )
