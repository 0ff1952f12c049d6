"""The parameters of llama.cpp's quantizer as C structures: `llama_model_quantize_params` of its include/llama.h."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ft_pipeline.errors import ConversionError
from ft_pipeline.quantization.types import TENSOR_TYPES, TYPES

_MAX_BYTES = 127  # of a key and of a text: both are char[128] in C, with a zero at the end
_MAX_INT = 2**32 - 1  # written as uint32
# Of rows in memory at once, besides the mapped source. llama.cpp's own 8 GiB holds any tensor whole, as floats; smaller
# slabs stay in the processor's caches and take less time as well. A slab starts all threads anew, so not too small.
_SLAB_BYTES = 64 << 20
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class QuantizerParameters:
    """What `llama_model_quantize` is called with.

    Args:
        type_name: A key of `TYPES`.
        importance: By the names of tensors.
        tensor_types: A key of `TENSOR_TYPES` by the name of a tensor.
        metadata: Written into the file.
        dry_run: Plan only.

    Attributes:
        pointer: For the call. The arrays behind it live as long as this object.
    """

    def __init__(
        self,
        type_name: str,
        *,
        importance: Mapping[str, Any] | None = None,
        tensor_types: Mapping[str, str] = _NOTHING,
        metadata: Mapping[str, str | int | float | bool] = _NOTHING,
        dry_run: bool = False,
    ) -> None:
        import llama_cpp

        self._parameters = llama_cpp.llama_model_quantize_default_params()
        self._parameters.ftype = TYPES[type_name].ftype
        self._parameters.nthread = 0  # as many as the machine has
        self._parameters.max_buf_size = _SLAB_BYTES
        self._parameters.dry_run = dry_run
        self._kept: list[Any] = []
        if importance:
            self._parameters.imatrix = self._importance(importance)
        if tensor_types:
            self._parameters.tt_overrides = self._tensor_types(tensor_types)
        if metadata:
            self._parameters.kv_overrides = self._metadata(metadata)
        self.pointer = ctypes.byref(self._parameters)

    # Each array ends with an element of zeros, as ctypes makes them.

    def _importance(self, importance: Mapping[str, Any]) -> Any:
        import llama_cpp
        import numpy as np

        array = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
        for entry, (name, values) in zip(array, importance.items(), strict=False):
            floats = np.ascontiguousarray(values, dtype=np.float32)
            self._kept.append(floats)
            entry.name = name.encode()
            entry.data = floats.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.size = floats.size
        return array

    def _tensor_types(self, tensor_types: Mapping[str, str]) -> Any:
        import llama_cpp

        array = (llama_cpp.llama_model_tensor_override * (len(tensor_types) + 1))()
        for entry, (tensor, name) in zip(array, tensor_types.items(), strict=False):
            # llama.cpp searches for it as a regular expression of C++.
            entry.pattern = f"^{tensor.replace('.', '[.]')}$".encode()
            entry.type = TENSOR_TYPES[name].ggml_type
        return array

    def _metadata(self, metadata: Mapping[str, str | int | float | bool]) -> Any:
        import llama_cpp

        array = (llama_cpp.llama_model_kv_override * (len(metadata) + 1))()
        for entry, (key, value) in zip(array, metadata.items(), strict=False):
            entry.key = _text(key, key)
            if isinstance(value, bool):
                entry.tag, entry.value.val_bool = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_BOOL, value
            elif isinstance(value, int):
                if not 0 <= value <= _MAX_INT:
                    raise ConversionError(f"metadata that is a number must be in 0..{_MAX_INT}; {key} is {value}.")
                entry.tag, entry.value.val_i64 = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT, value
            elif isinstance(value, float):
                entry.tag, entry.value.val_f64 = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_FLOAT, value
            else:
                entry.tag, entry.value.val_str = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR, _text(key, value)
        return array


def _text(key: str, text: str) -> bytes:
    data = text.encode()
    if len(data) > _MAX_BYTES or b"\0" in data:
        raise ConversionError(
            f"llama.cpp's quantizer takes metadata of at most {_MAX_BYTES} bytes a key or text, with no zero byte; "
            f"{key} has one of {len(data)}. Shorten it, or write it when the 16-bit GGUF is made."
        )
    return data
