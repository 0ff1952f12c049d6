"""What GGUF files are called, and which of several parts is opened."""

from __future__ import annotations

import re
from pathlib import Path

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_UNQUANTIZED = {"float16": "F16", "bfloat16": "BF16"}


def gguf_file_name(name: str, type_name: str) -> str:
    """The name of a GGUF file, e.g. demo-Q4_K_M.gguf."""
    return f"{name}-{type_name}.gguf"


def find_gguf(folder: Path, name: str, type_name: str) -> Path:
    """The file of a type, or the first of its parts, which llama.cpp opens the others by."""
    first = sorted(folder.glob(f"{name}-{type_name}-00001-of-*.gguf"))
    return first[0] if first else folder / gguf_file_name(name, type_name)


def list_parts(path: Path) -> list[Path]:
    """All files of a GGUF: of one that was split, those that its first part's name counts."""
    part = _PART.search(path.name)
    if part is None:
        return [path]
    stem = path.name[: part.start()]
    return [path.with_name(f"{stem}-{number:05d}-of-{part[2]}.gguf") for number in range(1, int(part[2]) + 1)]


def unquantized_type(dtype: str) -> str:
    """llama.cpp's name of a file with weights of this type, as torch calls it."""
    return _UNQUANTIZED[dtype]
