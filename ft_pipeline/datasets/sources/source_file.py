"""A file of a data set, as it lies on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.datasets.sources.suffixes import find_encoding, split_suffix
from ft_pipeline.fingerprint import fingerprint

TRAINING_SET = "train"


@dataclass(frozen=True)
class SourceFile:
    """One file of a data set.

    Attributes:
        set: `train`, or the name of a test set.
        path: Where its bytes lie, links resolved; for a URL the fetched copy.
        name: Its path relative to the project, or its URL without credentials, as shown to people. It ends in the
            suffix that says what the file holds (`suffixes.split_suffix`); `path` need not.
        sha256: Hash of its bytes as they lie (compressed ones of a compressed file), in hex.
        format: Name of the rows' format, or `auto`.
        columns: The data's name of a column by the format's.
        link: By which it was found; None: by its own name, or elsewhere.
    """

    set: str
    path: Path
    name: str
    sha256: str
    size_bytes: int
    format: str
    columns: Mapping[str, str]
    link: Path | None = None

    @property
    def layout(self) -> str:
        """Hash of how it is read: the same bytes may be read otherwise in another set or under another recipe."""
        kind, compression = split_suffix(self.name)
        columns = dict(self.columns)
        return fingerprint({"kind": kind, "compression": compression, "format": self.format, "columns": columns})

    @property
    def kind(self) -> str:
        """What the file holds, decompressed: `jsonl`, `json`, `csv` or `parquet`."""
        return split_suffix(self.name)[0]

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is as a part of a data set, whatever it is called: set, SHA-256 and layout."""
        return self.set, self.sha256, self.layout

    @property
    def rows_key(self) -> tuple[str, str]:
        """What its rows hang on: its hash, and how its bytes become rows, e.g. `csv.gz`."""
        return self.sha256, find_encoding(self.name)


def shown(text: str) -> str:
    """The text on one line: characters that do not print, and backslashes, are written as Python's escapes."""
    return "".join(
        char if char.isprintable() and char != "\\" else char.encode("unicode_escape").decode() for char in text
    )
