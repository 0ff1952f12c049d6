"""A GGUF with every tensor of a model and none of its weights: what llama.cpp makes of an architecture, for nothing.

The file is as long as the real one and takes no room: its weights are a hole.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any

from ft_pipeline.errors import ConversionError
from ft_pipeline.finetuning.architecture import Architecture
from ft_pipeline.quantization.llama_library import call_llama
from ft_pipeline.quantization.types import BLOCKS

_ALIGNMENT = 32
_COUNT_OFFSET = 8  # after the magic and the version
_ARCHITECTURE, _TYPE_BYTES = b"general.architecture", 4
_SUFFIXES = (".weight", ".bias")
_WRONG_SHAPE = "wrong shape"


def write_skeleton(vocabulary_gguf: Path, target: Path, architecture: Architecture, type_name: str) -> None:
    """Write a vocabulary-only GGUF again, with the tensors of the whole model.

    Args:
        vocabulary_gguf: What the converter wrote; it holds all hyperparameters.
        target: The file to write.
        architecture: Of the model.
        type_name: Of the matrices, as in `BLOCKS`; vectors are float32 as in the converter's files.

    Raises:
        ConversionError: llama.cpp has no name for a tensor of the model.
    """
    head = vocabulary_gguf.read_bytes()
    tensors = _name_tensors(head, architecture)
    entries, size = b"", 0
    for name, shape in tensors:
        block = BLOCKS["f32" if len(shape) == 1 else type_name]
        spelled = name.encode()
        entries += struct.pack("<Q", len(spelled)) + spelled + struct.pack("<I", len(shape))
        entries += struct.pack(f"<{len(shape)}QIQ", *reversed(shape), block.ggml_type, size)
        size += _align(math.prod(shape) // block.weights * block.bytes)
    written = head[:_COUNT_OFFSET] + struct.pack("<Q", len(tensors)) + head[_COUNT_OFFSET + 8 :] + entries
    target.write_bytes(written)
    os.truncate(target, _align(len(written)) + size)


def require_loadable(skeleton: Path) -> None:
    """See that llama.cpp finds all tensors of its architecture, in the shapes that it wants; no weight is read.

    Raises:
        ConversionError: it does not.
    """
    import llama_cpp

    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    parameters.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE  # a mapped file cannot go without its weights
    parameters.no_alloc = True
    model, log = call_llama(lambda: llama_cpp.llama_model_load_from_file(str(skeleton).encode(), parameters))
    if not model:
        words = " | ".join(log[-3:])
        advice = "Use a base of an architecture that it knows."
        if _WRONG_SHAPE in words:
            advice = (
                "The base's config.json and tokenizer must be of one model: vocab_size is the tokenizer's number of "
                "tokens. Fetch the base again, or mend it."
            )
        raise ConversionError(
            f"llama.cpp must load a model of the base's architecture, and refuses its tensors: {words}. {advice}"
        )
    llama_cpp.llama_model_free(model)


def _name_tensors(head: bytes, architecture: Architecture) -> list[tuple[str, tuple[int, ...]]]:
    from gguf import get_tensor_name_map

    names = get_tensor_name_map(_read_arch(head), architecture.layers)
    found = [(name, names.get_name(name, try_suffixes=_SUFFIXES), shape) for name, shape in architecture.list_tensors()]
    if unknown := [name for name, written, _ in found if written is None]:
        raise ConversionError(
            f"llama.cpp must have a name for each tensor of the base, and has none for {len(unknown)}: "
            f"{', '.join(unknown[:3])}, ... Use a base of an architecture that it knows."
        )
    return [(written, shape) for _, written, shape in found]


def _read_arch(head: bytes) -> Any:
    # gguf's own reader takes seconds for the vocabulary. A key is followed by its type, a text by its length.
    from gguf import MODEL_ARCH_NAMES

    start = head.index(_ARCHITECTURE) + len(_ARCHITECTURE) + _TYPE_BYTES
    (length,) = struct.unpack_from("<Q", head, start)
    wanted = head[start + 8 : start + 8 + length].decode()
    found = next((arch for arch, name in MODEL_ARCH_NAMES.items() if name == wanted), None)
    if found is None:
        raise ConversionError(
            f"the installed gguf package must know the base's architecture, and has none called {wanted!r}. Take a "
            "newer one, or another base."
        )
    return found


def _align(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
