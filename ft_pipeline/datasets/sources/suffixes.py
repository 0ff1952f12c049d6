"""What a file holds, by the end of its name."""

from __future__ import annotations

from types import MappingProxyType

from ft_pipeline.errors import SourceError

_KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_COMPRESSIONS = {"": None, ".gz": "gz", ".zst": "zst"}

SUFFIXES = MappingProxyType(
    {
        kind_suffix + compression_suffix: (kind, compression)
        for kind_suffix, kind in _KINDS.items()
        for compression_suffix, compression in _COMPRESSIONS.items()
    }
)
"""Known suffixes, each with its kind and its compression."""

_SHOWN = f"{', '.join(_KINDS)}, each also with .gz or .zst"


def find_suffix(name: str) -> str | None:
    """The known suffix that a file's name or a URL ends in, in lower case; None if it ends in no such one."""
    path = name.partition("?")[0] if "://" in name else name
    last = path.rsplit("/", 1)[-1].lower()
    fitting = [suffix for suffix in SUFFIXES if last.endswith(suffix) and last != suffix]
    return max(fitting, key=len, default=None)


def find_encoding(name: str) -> str:
    """How the bytes of a file become rows, by its name: its kind and, after a dot, its compression, e.g. `csv.gz`.

    Raises:
        SourceError: as of `split_suffix`.
    """
    return ".".join(filter(None, split_suffix(name)))


def split_suffix(name: str) -> tuple[str, str | None]:
    """Kind (`jsonl`, `json`, `csv`, `parquet`) and compression (`gz`, `zst` or None) of a file's name or a URL.

    Raises:
        SourceError: the name ends in no known suffix.
    """
    suffix = find_suffix(name)
    if suffix is None:
        raise SourceError(f"{name}: a source's name must end in one of {_SHOWN}. Rename or convert it")
    return SUFFIXES[suffix]
