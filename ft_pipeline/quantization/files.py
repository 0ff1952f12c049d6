"""What GGUF files are called, and which of several parts is opened."""

from __future__ import annotations

from pathlib import Path

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_UNQUANTIZED = {"float16": "F16", "bfloat16": "BF16"}


def gguf_file_name(name: str, type_name: str) -> str:
    """The name of a GGUF file, e.g. demo-Q4_K_M.gguf."""
    return f"{name}-{type_name}.gguf"


def find_gguf(folder: Path, name: str, type_name: str) -> Path:
    """The file of a type, or the first of its parts, which llama.cpp opens the others by."""
    first = sorted(folder.glob(f"{name}-{type_name}-00001-of-*.gguf"))
    return first[0] if first else folder / gguf_file_name(name, type_name)


def unquantized_type(dtype: str) -> str:
    """llama.cpp's name of a file with weights of this type, as torch calls it."""
    return _UNQUANTIZED[dtype]
