"""Nested states, such as an optimizer's, as what safetensors and JSON hold, and back without loss.

In JSON a text, a bool, an int, a finite float and None are themselves. All else is an object of one key, which says
what it was: `{"tuple": [0.9, 0.999]}`, `{"dict": [[0, ...]]}` (keys may be numbers), `{"tensor": "t00007"}`,
`{"float": "nan"}`.
"""

from __future__ import annotations

import math
from typing import Any


def flatten_state(state: Any) -> tuple[dict[str, Any], Any]:
    """Take a state apart.

    Args:
        state: Dicts with text or int keys, lists, tuples, tensors of any device and plain values, nested at will.

    Returns:
        Tensors by name, on the CPU, contiguous, no two in one storage; and what `json.dumps` takes. A tensor that is in
        the state at several places is one tensor.

    Raises:
        TypeError: something else is in the state; the message says where.
    """
    flattening = _Flattening()
    return flattening.tensors, flattening.encode(state, "state")


def unflatten_state(tensors: dict[str, Any], encoded: Any) -> Any:
    """Undo `flatten_state`: same types, same numbers bit for bit; a tensor of several places is one object again.

    Raises:
        KeyError: a tensor is not there.
        ValueError: the JSON is not what `flatten_state` makes.
    """
    if not isinstance(encoded, dict):
        return encoded
    if len(encoded) != 1:
        raise ValueError(f"a node must be an object of one key, got {sorted(encoded)[:5]}")
    kind, value = next(iter(encoded.items()))
    if kind == "tensor":
        return tensors[value]
    if kind == "float":
        return float(value)
    if kind == "dict":
        return {key: unflatten_state(tensors, item) for key, item in value}
    if kind in ("list", "tuple"):
        items = [unflatten_state(tensors, item) for item in value]
        return items if kind == "list" else tuple(items)
    raise ValueError(f"a node must be a dict, list, tuple, tensor or float, got '{kind}'")


class _Flattening:
    def __init__(self) -> None:
        self.tensors: dict[str, Any] = {}
        self._names: dict[Any, str] = {}
        self._storages: set[int] = set()

    def encode(self, value: Any, place: str) -> Any:
        import torch

        if isinstance(value, torch.Tensor):
            return {"tensor": self._keep(value)}
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": repr(float(value))}
        if value is None or isinstance(value, str | bool | int | float):
            return value
        if isinstance(value, dict):
            return {
                "dict": [[_check_key(key, place), self.encode(item, f"{place}.{key}")] for key, item in value.items()]
            }
        if isinstance(value, list | tuple):
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [self.encode(item, f"{place}[{index}]") for index, item in enumerate(value)]}
        raise TypeError(f"a state must be made of tensors and plain values, got {type(value).__name__} at {place}")

    def _keep(self, tensor: Any) -> str:
        # bitsandbytes has one quantization map for all parameters.
        same = (tensor.data_ptr(), tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride())
        if same in self._names:
            return self._names[same]
        name = f"t{len(self.tensors):05}"
        kept = tensor.detach().cpu().contiguous()
        # safetensors refuses two views of one storage.
        if kept.untyped_storage().data_ptr() in self._storages:
            kept = kept.clone()
        self._storages.add(kept.untyped_storage().data_ptr())
        self.tensors[name], self._names[same] = kept, name
        return name


def _check_key(key: Any, place: str) -> str | int:
    if isinstance(key, str | int):
        return key
    raise TypeError(f"a state's keys must be text or whole numbers, got {key!r} in {place}")
