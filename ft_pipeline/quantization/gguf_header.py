"""Where the arrays of a GGUF's metadata lie in the file, without reading them.

The gguf package's reader makes a NumPy array of each of a vocabulary's texts: ten seconds for 128,000. The format:
ggml/docs/gguf.md in llama.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from ft_pipeline.errors import ConversionError

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_STRING, _ARRAY = 8, 9
# Bytes of a value, by the number of its type.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def find_arrays(path: Path, keys: Collection[str]) -> dict[str, tuple[int, int]]:
    """Offset in bytes and number of values of some arrays of numbers; those that are not there are left out.

    Raises:
        ConversionError: it is no GGUF of a version that is known.
    """
    found: dict[str, tuple[int, int]] = {}
    with path.open("rb") as file:
        magic, version, _tensors, pairs = struct.unpack("<4sIQQ", file.read(24))
        if magic != _MAGIC or version not in _VERSIONS:
            raise ConversionError(f"{path} must be a GGUF of version 2 or 3, begins with {magic!r} and {version}.")
        for _ in range(pairs):
            key = _read_string(file).decode("utf-8")
            (kind,) = struct.unpack("<I", file.read(4))
            if kind == _ARRAY and key in keys:
                element, count = struct.unpack("<IQ", file.read(12))
                found[key] = (file.tell(), count)
                file.seek(_SIZES[element] * count, 1)
            else:
                _skip(file, kind)
    return found


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
    return file.read(length)
