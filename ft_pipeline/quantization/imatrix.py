"""The importance that training has measured, by the names of a GGUF's tensors, and llama.cpp's own file of it."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ft_pipeline.errors import ConversionError, CorruptArtifact
from ft_pipeline.finetuning.importance import IMPORTANCE_FILE, MEASURED, Importance

Values = Mapping[str, npt.NDArray[np.float32]]
_HEAD = "lm_head.weight"
# Of llama.cpp's tool, tools/imatrix/imatrix.cpp.
_SUMS, _COUNTS = ".in_sum2", ".counts"
_CHUNK_TOKENS = 512
_SHOWN = 3


def read_importance(folder: Path) -> Importance | None:
    """What the training of this adapter has measured; None: it has not.

    Raises:
        CorruptArtifact: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / IMPORTANCE_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as file:
            measured = json.loads(file.metadata()[MEASURED])
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return Importance(values, measured["tokens"], measured["rows"])
    except SafetensorError as err:
        raise CorruptArtifact(f"{path} must be whole, is not ({err}). Train again.") from err


def to_gguf_names(importance: Importance, gguf_file: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """The values by the names of the GGUF's tensors, as llama.cpp's quantizer takes them.

    The converter reorders rows of some matrices, but no columns. An output head that is also the embedding has no
    tensor of its own; as in llama.cpp's tool its values are left out.

    Args:
        importance: Of the model that the GGUF was made from.
        gguf_file: Its 16-bit GGUF.
        tell: Told of values that no tensor is for.

    Raises:
        ConversionError: they are of another model.
    """
    tensors = _find_tensors(gguf_file, list(importance.values))
    found = {}
    for name, (tensor, columns) in tensors.items():
        values = importance.values[name]
        if len(values) != columns:
            raise ConversionError(
                f"importance must be of the model that is quantized: {name} has {len(values)} columns, {tensor} of "
                f"{gguf_file.name} has {columns}. Train the adapter again."
            )
        found[tensor] = values
    lost = sorted(set(importance.values) - set(tensors) - {_HEAD})
    if lost:
        more = ", ..." if len(lost) > _SHOWN else ""
        tell(
            f"{len(lost)} matrices are quantized without their importance, because llama.cpp's converter calls them "
            f"otherwise: {', '.join(lost[:_SHOWN])}{more}"
        )
    return found


def write_imatrix_gguf(path: Path, values: Values, tokens: int, dataset: str) -> None:
    """Write what `llama-quantize --imatrix` reads.

    Args:
        path: The file to write.
        values: Mean squares by the names of a GGUF's tensors.
        tokens: That they are means over.
        dataset: What the file calls the text.
    """
    import gguf

    class ImatrixWriter(gguf.GGUFWriter):  # type: ignore[misc]
        def add_architecture(self) -> None:
            """The tool's own files name none."""

    writer = ImatrixWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", [dataset])
    writer.add_uint32("imatrix.chunk_count", -(-tokens // _CHUNK_TOKENS))
    writer.add_uint32("imatrix.chunk_size", _CHUNK_TOKENS)
    for name in sorted(values):
        writer.add_tensor(name + _SUMS, (values[name].astype(np.float64) * tokens).astype(np.float32))
        writer.add_tensor(name + _COUNTS, np.full(1, tokens, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_imatrix_gguf(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Mean squares by the names of a GGUF's tensors, from a file of llama.cpp's tool or of `write_imatrix_gguf`."""
    from gguf import GGUFReader

    data = {tensor.name: np.asarray(tensor.data) for tensor in GGUFReader(path).tensors}
    names = [name.removesuffix(_SUMS) for name in data if name.endswith(_SUMS)]
    return {name: (data[name + _SUMS] / data[name + _COUNTS]).reshape(-1) for name in names}


def _find_tensors(path: Path, names: list[str]) -> dict[str, tuple[str, int]]:
    """Of a model's tensors, by their names in transformers: the names in the GGUF, and how many columns they have.

    It asks llama.cpp's library: gguf's reader takes seconds for the vocabulary of a large model.
    """
    import gguf
    from llama_cpp.llama_cpp import _lib as library

    _declare(library)
    context = library.gguf_init_from_file(str(path).encode(), _InitParams(no_alloc=True, context=None))
    if not context:
        raise ConversionError(f"llama.cpp must read what was converted; it refuses {path}.")
    try:
        architecture = library.gguf_get_val_str(context, library.gguf_find_key(context, b"general.architecture"))
        blocks = library.gguf_find_key(context, architecture + b".block_count")
        known = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
        called = gguf.get_tensor_name_map(known[architecture.decode()], library.gguf_get_val_u32(context, blocks))
        found = {}
        for name in names:
            tensor = called.get_name(name, try_suffixes=(".weight",))
            index = library.gguf_find_tensor(context, tensor.encode()) if tensor else -1
            if index >= 0:
                found[name] = tensor, int(library.gguf_get_tensor_ne(context, index)[0])
    finally:
        library.gguf_free(context)
    return found


class _InitParams(ctypes.Structure):
    """`struct gguf_init_params` of ggml/include/gguf.h."""

    _fields_ = [("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p)]


def _declare(library: Any) -> None:
    """What ctypes must know of ggml/include/gguf.h."""
    pointer, index = ctypes.c_void_p, ctypes.c_int64
    for name, result, arguments in (
        ("init_from_file", pointer, [ctypes.c_char_p, _InitParams]),
        ("free", None, [pointer]),
        ("find_key", index, [pointer, ctypes.c_char_p]),
        ("get_val_str", ctypes.c_char_p, [pointer, index]),
        ("get_val_u32", ctypes.c_uint32, [pointer, index]),
        ("find_tensor", index, [pointer, ctypes.c_char_p]),
        ("get_tensor_ne", ctypes.POINTER(index), [pointer, index]),
    ):
        function = getattr(library, f"gguf_{name}")
        function.restype, function.argtypes = result, arguments
