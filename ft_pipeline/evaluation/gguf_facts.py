"""What a GGUF's header says about the memory that its model needs, without reading a weight.

The header is read by llama.cpp's own functions (ggml/include/gguf.h): a vocabulary of 128,000 takes them some
milliseconds.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.llama_log import LlamaLog
from ft_pipeline.quantization.files import list_parts

_LAYER = re.compile(r"blk\.(\d+)\.")
# What llama.cpp looks tokens up in stays in the host's memory (LLM_TENSOR_LAYER_INPUT in src/llama-arch.cpp).
_INPUT = re.compile(r"(token_embd|per_layer_token_embd|position_embd|token_types)\.")
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
# GGUF_TYPE_* of ggml/include/gguf.h.
_NUMBERS: dict[int, Any] = {
    0: ctypes.c_uint8,
    1: ctypes.c_int8,
    2: ctypes.c_uint16,
    3: ctypes.c_int16,
    4: ctypes.c_uint32,
    5: ctypes.c_int32,
    6: ctypes.c_float,
    7: ctypes.c_bool,
    10: ctypes.c_uint64,
    11: ctypes.c_int64,
    12: ctypes.c_double,
}
_STRING, _ARRAY = 8, 9
# Of one value in llama.cpp's cache of keys and values, and in the state of a recurrent layer.
_CACHE_VALUE_BYTES, _STATE_VALUE_BYTES = 2, 4


@dataclass(frozen=True)
class Layer:
    """One decoder layer.

    Attributes:
        weight_bytes: Of all its tensors.
        largest_bytes: Of its largest tensor.
        cache_bytes_per_token: What a token takes in a 16-bit cache of keys and values; 0 without attention.
        state_bytes: What a conversation takes where the layer is recurrent, however long it is.
    """

    weight_bytes: int
    largest_bytes: int
    cache_bytes_per_token: int
    state_bytes: int = 0


@dataclass(frozen=True)
class GgufFacts:
    """A model's shape, by its file.

    Attributes:
        size_bytes: Of all files of it.
        layers: Its decoder layers, the first first.
        output_bytes: The output layer's tensors; with tied embeddings llama.cpp makes a copy of them for it.
        vocabulary: Tokens in it.
        hidden: Values of a token between two layers.
        heads: Attention heads of the widest layer; 0 without attention.
        intermediate: Values of a token within a layer's MLP, those of all experts that it goes through.
        context_tokens: What the model was trained to see at once.
    """

    size_bytes: int
    layers: tuple[Layer, ...]
    output_bytes: int
    vocabulary: int
    hidden: int
    heads: int
    intermediate: int
    context_tokens: int

    def count_cache(self, cells: int) -> int:
        """Bytes that a conversation of so many cells takes, over all layers."""
        return sum(cells * layer.cache_bytes_per_token + layer.state_bytes for layer in self.layers)


def _require_files(path: Path) -> list[Path]:
    files = list_parts(path)
    if missing := [file for file in files if not file.is_file()]:
        raise EvaluationError(f"all parts of a GGUF must be there; {missing[0]} is not. Build or restore its artifact.")
    return files


def read_gguf_facts(path: Path) -> GgufFacts:
    """Read a GGUF's headers.

    Args:
        path: The file, or the first of its parts.

    Raises:
        EvaluationError: a file is missing, or no GGUF, or claims more layers than it has tensors.
    """
    files = _require_files(path)
    tensors: dict[str, int] = {}
    for file in files:
        with _open_header(file) as header:
            tensors |= header.tensor_bytes()
    with _open_header(path) as header:
        numbers = [int(found[1]) for name in tensors if (found := _LAYER.match(name))]
        count = max([header.number("block_count"), *(number + 1 for number in numbers)])
        if count > len(tensors):
            raise EvaluationError(
                f"a GGUF must have a tensor for each of its layers; {path} claims {count} layers and has "
                f"{len(tensors)} tensors. It is damaged: build or restore its artifact."
            )
        return _describe(header, tensors, sum(file.stat().st_size for file in files), count)


def _describe(header: _Header, tensors: dict[str, int], size_bytes: int, count: int) -> GgufFacts:
    of_layer: list[list[int]] = [[] for _ in range(count)]
    output = 0
    for name, size in tensors.items():
        if found := _LAYER.match(name):
            of_layer[int(found[1])].append(size)
        elif not _INPUT.match(name):
            output += size
    tied = 0 if _OUTPUT in tensors else tensors.get(_EMBEDDING, 0)
    heads = header.numbers("attention.head_count", count)
    caches, states = _count_caches(header, heads, count), _count_state(header)
    return GgufFacts(
        size_bytes=size_bytes,
        layers=tuple(
            Layer(sum(sizes), max(sizes, default=0), cache, 0 if cache else states)
            for sizes, cache in zip(of_layer, caches, strict=True)
        ),
        output_bytes=output + tied,
        vocabulary=header.vocabulary(),
        hidden=header.number("embedding_length"),
        heads=max(heads, default=0),
        intermediate=max(
            *header.numbers("feed_forward_length", count),
            header.number("expert_used_count") * header.number("expert_feed_forward_length"),
            0,
        ),
        context_tokens=header.number("context_length"),
    )


def _count_caches(header: _Header, heads: list[int], count: int) -> list[int]:
    """By layer, what a token's keys and values take; layers with a sliding window are counted like the others."""
    key_heads = header.numbers("attention.head_count_kv", count) if header.has("attention.head_count_kv") else heads
    width = header.number("embedding_length") // max([1, *heads])
    key = header.number("attention.key_length", width)
    value = header.number("attention.value_length", width)
    return [number * (key + value) * _CACHE_VALUE_BYTES for number in key_heads]


def _count_state(header: _Header) -> int:
    """What a conversation takes in one recurrent layer: n_embd_r and n_embd_s of src/llama-hparams.cpp."""
    hidden = header.number("embedding_length")
    if head := header.number("wkv.head_size"):
        return hidden * (head + 2) * _STATE_VALUE_BYTES
    if convolution := header.number("shortconv.l_cache"):
        return hidden * (convolution - 1) * _STATE_VALUE_BYTES
    inner, state = header.number("ssm.inner_size"), header.number("ssm.state_size")
    taps = max(0, header.number("ssm.conv_kernel") - 1)
    return (taps * (inner + 2 * header.number("ssm.group_count") * state) + state * inner) * _STATE_VALUE_BYTES


class _Header:
    """A header that ggml has read, for as long as it is open."""

    def __init__(self, library: Any, handle: int) -> None:
        self._library, self._handle = library, handle
        self._architecture = self._string("general.architecture") or ""

    def tensor_bytes(self) -> dict[str, int]:
        """Bytes by the tensor's name."""
        names, sizes = self._library.gguf_get_tensor_name, self._library.gguf_get_tensor_size
        count = self._library.gguf_get_n_tensors(self._handle)
        return {names(self._handle, index).decode(): sizes(self._handle, index) for index in range(count)}

    def vocabulary(self) -> int:
        """Tokens of the tokenizer."""
        key = self._find("tokenizer.ggml.tokens")
        return 0 if key < 0 else int(self._library.gguf_get_arr_n(self._handle, key))

    def has(self, name: str) -> bool:
        """Whether the architecture's key is there."""
        return self._find(f"{self._architecture}.{name}") >= 0

    def number(self, name: str, default: int = 0) -> int:
        """The largest value of the architecture's key."""
        return max(self._values(name), default=default)

    def numbers(self, name: str, count: int) -> list[int]:
        """The values of the architecture's key, one for each layer; 0 where it is not there."""
        values = self._values(name) or [0]
        return values[:count] if len(values) >= count else [max(values)] * count

    def _values(self, name: str) -> list[int]:
        key = self._find(f"{self._architecture}.{name}")
        if key < 0:
            return []
        kind, count = self._library.gguf_get_kv_type(self._handle, key), 1
        if kind == _ARRAY:
            kind = self._library.gguf_get_arr_type(self._handle, key)
            count = self._library.gguf_get_arr_n(self._handle, key)
            read = self._library.gguf_get_arr_data
        else:
            read = self._library.gguf_get_val_data
        if kind not in _NUMBERS or not count:
            return []
        address = ctypes.cast(read(self._handle, key), ctypes.POINTER(_NUMBERS[kind]))
        return [int(value) for value in address[:count] if math.isfinite(value)]

    def _string(self, name: str) -> str | None:
        key = self._find(name)
        if key < 0 or self._library.gguf_get_kv_type(self._handle, key) != _STRING:
            return None
        text: bytes = self._library.gguf_get_val_str(self._handle, key)
        return text.decode("utf-8", errors="replace")

    def _find(self, name: str) -> int:
        return int(self._library.gguf_find_key(self._handle, name.encode()))


class _InitParameters(ctypes.Structure):
    """gguf_init_params of ggml/include/gguf.h."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


@contextmanager
def _open_header(path: Path) -> Iterator[_Header]:
    library = _load_library()
    with LlamaLog() as log:
        with log.listen():
            handle = library.gguf_init_from_file(str(path).encode(), _InitParameters(True, None))
        if not handle:
            raise EvaluationError(f"llama.cpp must read a GGUF's header; it refuses {path}: {log.explain()}")
        try:
            yield _Header(library, handle)
        finally:
            library.gguf_free(handle)


def _load_library() -> Any:
    """ggml's functions for GGUF files, which llama-cpp-python has loaded and does not declare."""
    import llama_cpp

    library = ctypes.CDLL(llama_cpp.llama_cpp._lib._name)
    pointer, index = ctypes.c_void_p, ctypes.c_int64
    declared: dict[str, tuple[Any, list[Any]]] = {
        "gguf_init_from_file": (pointer, [ctypes.c_char_p, _InitParameters]),
        "gguf_free": (None, [pointer]),
        "gguf_find_key": (index, [pointer, ctypes.c_char_p]),
        "gguf_get_kv_type": (ctypes.c_int, [pointer, index]),
        "gguf_get_arr_type": (ctypes.c_int, [pointer, index]),
        "gguf_get_arr_n": (ctypes.c_size_t, [pointer, index]),
        "gguf_get_arr_data": (pointer, [pointer, index]),
        "gguf_get_val_data": (pointer, [pointer, index]),
        "gguf_get_val_str": (ctypes.c_char_p, [pointer, index]),
        "gguf_get_n_tensors": (index, [pointer]),
        "gguf_get_tensor_name": (ctypes.c_char_p, [pointer, index]),
        "gguf_get_tensor_size": (ctypes.c_size_t, [pointer, index]),
    }
    for name, (result, arguments) in declared.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
