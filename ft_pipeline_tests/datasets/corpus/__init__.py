"""Files and rows that are wrong, or look it: what each must lead to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

GOOD_ROWS = 60


@dataclass(frozen=True)
class RowCase:
    """One line between good ones.

    Attributes:
        codes: Reason codes that it may get, and no others; none: it is fine.
    """

    name: str
    line: bytes
    codes: frozenset[str]


@dataclass(frozen=True)
class FileCase:
    """One file, alone in the data folder.

    Attributes:
        file: Its name.
        make: What it holds, or what makes it at a path.
        kept: Rows that stay, repeats among them.
        faults: Reason codes of the other rows by line.
        error: What the one error says that is raised instead; it must name the file.
    """

    name: str
    file: str
    make: bytes | Callable[[Path], None]
    kept: int = 0
    faults: dict[int, str] = field(default_factory=dict)
    error: str = ""


def row(name: str, line: bytes | str, *codes: str) -> RowCase:
    """A case of one line."""
    return RowCase(name, line.encode() if isinstance(line, str) else line, frozenset(codes))
