"""Whether an adapter holds all that its configuration says was trained: half of one would be merged without a word."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from ft_pipeline.errors import ConversionError
from ft_pipeline.merging.adapter import Adapter
from ft_pipeline.merging.adapter_config import CONFIG_FILE, LoraConfig
from ft_pipeline.merging.shards import Shards

_LAYER = re.compile(r"(?P<stack>.*?[^.]+)\.(?P<index>\d+)\.")
_MATRIX = 2
_SHOWN = 3


@dataclass(frozen=True)
class _Module:
    """A module of the base that has a weight.

    Attributes:
        stack: Name of the list of layers that it is in; empty outside of all.
        index: Of its layer there.
        matrix: Whether LoRA can be on it.
    """

    name: str
    stack: str
    index: int
    matrix: bool


def require_complete(adapter: Adapter, base: Shards, layers: int | None) -> None:
    """Compare the tensors of an adapter with the modules that its configuration selects.

    A list of layers of which the adapter changes nothing is left out: what reads images, or heads that predict several
    tokens. So are targets given as one regular expression, which is about names that only the model's class knows.

    Args:
        adapter: Fitted to the base.
        base: By all names that are written.
        layers: How many the base's configuration counts; files may hold more, which the model does not have.

    Raises:
        ConversionError: some are missing; the first ones are named.
    """
    modules = [module for module in _list_modules(base) if layers is None or module.index < layers]
    changed = {name.rpartition(".")[0] for name in adapter.updates}
    stacks = {module.stack for module in modules if module.name in changed}
    missing = [
        module.name
        for module in modules
        if (not module.stack or module.stack in stacks) and _is_missing(module, adapter, changed)
    ]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise ConversionError(
            f"an adapter must hold all that its {CONFIG_FILE} says was trained (target_modules, modules_to_save); "
            f"{adapter.folder} lacks {', '.join(missing[:_SHOWN])}{more}. Save or fetch it again."
        )


def _is_missing(module: _Module, adapter: Adapter, changed: Collection[str]) -> bool:
    config = adapter.config
    update = adapter.updates.get(f"{module.name}.weight")
    if _is_named(module.name, config.modules_to_save or ()):
        return module.name not in changed or (update is not None and update.whole is None)
    return module.matrix and _is_target(module, config) and (update is None or not update.low_rank)


def _is_target(module: _Module, config: LoraConfig) -> bool:
    """`peft.tuners.tuners_utils.check_target_module_exists`, for lists."""
    if not isinstance(config.target_modules, list) or not _is_named(module.name, config.target_modules):
        return False
    if isinstance(config.exclude_modules, str):
        if re.fullmatch(config.exclude_modules, module.name):
            return False
    elif _is_named(module.name, config.exclude_modules or ()):
        return False
    wanted = config.layers_to_transform
    if wanted is None or wanted == []:
        return True
    patterns = [config.layers_pattern] if isinstance(config.layers_pattern, str) else config.layers_pattern
    if patterns and not any(re.search(rf"(^|\.){pattern}$", module.stack) for pattern in patterns):
        return False
    return bool(module.stack) and module.index in ([wanted] if isinstance(wanted, int) else wanted)


def _is_named(module: str, names: Iterable[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def _list_modules(base: Shards) -> Iterator[_Module]:
    for name, shape in base.shapes.items():
        module, _, part = name.rpartition(".")
        if part == "weight":
            layer = _LAYER.match(name)
            stack, index = (layer["stack"], int(layer["index"])) if layer else ("", -1)
            yield _Module(module, stack, index, len(shape) == _MATRIX)
