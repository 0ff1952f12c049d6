"""Where the arrays of a GGUF's metadata lie in the file, and how long it must be, without reading them.

The gguf package's reader makes a NumPy array of each of a vocabulary's texts: ten seconds for 128,000. The format:
ggml/docs/gguf.md in llama.cpp.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from ft_pipeline.errors import ConversionError

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_STRING, _ARRAY = 8, 9
_ALIGNMENT_KEY, _DEFAULT_ALIGNMENT = "general.alignment", 32
# Bytes of a value, by the number of its type.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def find_arrays(path: Path, keys: Collection[str]) -> dict[str, tuple[int, int]]:
    """Offset in bytes and number of values of some arrays of numbers; those that are not there are left out.

    Raises:
        ConversionError: it is no GGUF of a version that is known.
    """
    found: dict[str, tuple[int, int]] = {}
    with path.open("rb") as file:
        _, pairs = _read_counts(file, path)
        for _ in range(pairs):
            key, kind = _read_key(file)
            if kind == _ARRAY and key in keys:
                element, count = struct.unpack("<IQ", file.read(12))
                found[key] = (file.tell(), count)
                file.seek(_SIZES[element] * count, 1)
            else:
                _skip(file, kind)
    return found


def count_bytes(path: Path) -> int:
    """How many bytes a GGUF that gguf-py wrote must have: its header's, and each tensor's with the padding after it.

    Raises:
        ConversionError: it is no GGUF of a version that is known, or ends within its header.
    """
    alignment = _DEFAULT_ALIGNMENT
    try:
        with path.open("rb") as file:
            tensors, pairs = _read_counts(file, path)
            for _ in range(pairs):
                key, kind = _read_key(file)
                if key == _ALIGNMENT_KEY:
                    (alignment,) = struct.unpack("<I", file.read(4))
                else:
                    _skip(file, kind)
            sizes = [_read_tensor_bytes(file) for _ in range(tensors)]
            end = file.tell()
    except (struct.error, EOFError) as err:
        raise ConversionError(f"{path} must be a whole GGUF, and ends within its header.") from err
    # With a vocabulary alone nothing follows the header, no padding either.
    return sum(-(-size // alignment) * alignment for size in (end, *sizes)) if sizes else end


def is_header_whole(path: Path) -> bool:
    """Whether a GGUF that somebody is writing, or has written, holds all that comes before its tensors."""
    if not path.is_file():
        return False
    try:
        count_bytes(path)
    except ConversionError:
        return False
    return True


def _read_counts(file: BinaryIO, path: Path) -> tuple[int, int]:
    magic, version, tensors, pairs = struct.unpack("<4sIQQ", file.read(24))
    if magic != _MAGIC or version not in _VERSIONS:
        raise ConversionError(f"{path} must be a GGUF of version 2 or 3, begins with {magic!r} and {version}.")
    return tensors, pairs


def _read_key(file: BinaryIO) -> tuple[str, int]:
    key = _read_string(file).decode("utf-8")
    (kind,) = struct.unpack("<I", file.read(4))
    return key, kind


def _read_tensor_bytes(file: BinaryIO) -> int:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    _read_string(file)
    (dimensions,) = struct.unpack("<I", file.read(4))
    *shape, kind, _offset = struct.unpack(f"<{dimensions}QIQ", file.read(8 * dimensions + 12))
    weights, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    return int(math.prod(shape) // weights * size)


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        _read_string(file)
    elif kind != _ARRAY:
        file.seek(_SIZES[kind], 1)
    else:
        element, count = struct.unpack("<IQ", file.read(12))
        if element in _SIZES:
            file.seek(_SIZES[element] * count, 1)
        else:
            for _ in range(count):
                _skip(file, element)


def _read_string(file: BinaryIO) -> bytes:
    (length,) = struct.unpack("<Q", file.read(8))
    text = file.read(length)
    if len(text) < length:
        raise EOFError
    return text
