"""Whether an adapter holds all that its configuration says was trained: half of one would be merged without a word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ft_pipeline.errors import ConversionError
from ft_pipeline.listing import name_some
from ft_pipeline.merging.adapter import Adapter
from ft_pipeline.merging.adapter_config import CONFIG_FILE, LoraConfig
from ft_pipeline.merging.shards import Shards

_INDEX = re.compile(r"\.(\d+)\.")
_MATRIX = 2
_OF_KEYS_AND_VALUES = ("k_proj", "v_proj", "k_norm", "v_norm")
_SHOWN = 3


@dataclass(frozen=True)
class _Module:
    """A module of the base that has a weight.

    Attributes:
        lists: The lists that it is in, from the outermost: layers, and experts in a layer, by name and place.
        index: Of its layer; -1 outside of all.
        is_matrix: Whether LoRA can be on it.
        has_bias: Whether it has one.
    """

    name: str
    lists: tuple[str, ...]
    index: int
    is_matrix: bool
    has_bias: bool


def require_complete(adapter: Adapter, base: Shards, layers: int | None, shared_layers: int = 0) -> None:
    """Compare the tensors of an adapter with the modules that its configuration selects.

    A list of which the adapter changes nothing is left out: the layers of what reads images, heads that predict
    several tokens, experts that the model's class keeps as one tensor.

    Args:
        adapter: Fitted to the base.
        base: By all names that are written.
        layers: How many the base's configuration counts; files may hold more, which the model does not have.
        shared_layers: How many of the last ones use the keys and values of others (`num_kv_shared_layers`); files may
            hold what would make their own.

    Raises:
        ConversionError: some are missing; the first ones are named.
    """
    modules = [module for module in _list_modules(base) if _is_in_model(module, layers, shared_layers)]
    changed = {name.rpartition(".")[0] for name in adapter.updates}
    known = {part for module in modules if module.name in changed for part in module.lists}
    by_pattern = _has_the_patterns_names(adapter)
    missing = [
        name
        for module in modules
        if known.issuperset(module.lists)
        for name in _list_missing(module, adapter, is_target=_is_target(module, adapter.config, by_pattern=by_pattern))
    ]
    if missing:
        raise ConversionError(
            f"an adapter must hold all that its {CONFIG_FILE} says was trained (target_modules, modules_to_save, bias, "
            f"lora_bias); {adapter.folder} lacks {name_some(missing, _SHOWN)}. Save or fetch it again."
        )


def _list_modules(base: Shards) -> Iterator[_Module]:
    for name, shape in base.shapes.items():
        module, _, part = name.rpartition(".")
        if part == "weight":
            found = list(_INDEX.finditer(name))
            lists = tuple(_INDEX.sub(".*.", name[: each.start(1)]) for each in found)
            index = int(found[0][1]) if found else -1
            yield _Module(module, lists, index, len(shape) == _MATRIX, f"{module}.bias" in base.shapes)


def _is_in_model(module: _Module, layers: int | None, shared_layers: int) -> bool:
    if layers is None or module.index < 0:
        return True
    own = layers - shared_layers if module.name.endswith(_OF_KEYS_AND_VALUES) else layers
    return module.index < own


def _list_missing(module: _Module, adapter: Adapter, *, is_target: bool) -> Iterator[str]:
    config, updates = adapter.config, adapter.updates
    weight, bias = (updates.get(f"{module.name}.{part}") for part in ("weight", "bias"))
    is_saved = _is_saved(module.name, config)
    if (is_saved and (weight is None or not weight.whole)) or (is_target and (weight is None or not weight.low_rank)):
        yield module.name
    # Not with `lora_only`: older versions of PEFT train these and do not save them.
    if module.has_bias and (is_saved or config.bias == "all") and (bias is None or not bias.whole):
        yield f"{module.name}.bias"
    if is_target and config.lora_bias and (bias is None or not bias.added):
        yield f"{module.name}.lora_B.bias"


def _is_saved(module: str, config: LoraConfig) -> bool:
    """Whether it is trained whole, or lies in one that is (`peft.utils.other._set_trainable`)."""
    parts = module.split(".")
    around = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return any(name.endswith(saved) for name in around for saved in config.modules_to_save or ())


def _is_target(module: _Module, config: LoraConfig, *, by_pattern: bool) -> bool:
    """`peft.tuners.tuners_utils.check_target_module_exists`."""
    targets, excluded = config.target_modules, config.exclude_modules
    if not module.is_matrix or targets is None or _is_saved(module.name, config):
        return False
    if re.fullmatch(excluded, module.name) if isinstance(excluded, str) else _is_named(module.name, excluded or ()):
        return False
    if isinstance(targets, str):
        return by_pattern and re.fullmatch(targets, module.name) is not None
    return module.name in targets or (_is_named(module.name, targets) and _is_in_layers(module, config))


def _is_in_layers(module: _Module, config: LoraConfig) -> bool:
    wanted, patterns = config.layers_to_transform, config.layers_pattern
    if wanted is None or wanted == []:
        return True
    if patterns:
        patterns = [patterns] if isinstance(patterns, str) else patterns
        found = (re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module.name) for pattern in patterns)
        index = next((int(match[1]) for match in found if match), -1)
    else:
        index = module.index
    return index in ([wanted] if isinstance(wanted, int) else wanted)


def _has_the_patterns_names(adapter: Adapter) -> bool:
    """Whether one regular expression for all targets is about the base's names, not others that its class has."""
    targets = adapter.config.target_modules
    adapted = [name.rpartition(".")[0] for name, update in adapter.updates.items() if update.low_rank]
    return isinstance(targets, str) and all(re.fullmatch(targets, name) for name in adapted)


def _is_named(module: str, names: Iterable[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)
