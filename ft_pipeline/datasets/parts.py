"""Parts: what was made of one source file, in chunks, kept under a key so that the next data set can take it over.

    <artifact>/<kind>/<key>/00000.parquet, 00001.parquet, ...    the chunks, in the order of the file
    <artifact>/<kind>/<key>/part.json                            what is known of it, and the hash of each chunk

A part hangs on nothing but the file and the settings that its key is made of, so one that an earlier artifact holds is
what would be made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.fingerprint import hash_file

_INDEX = "part.json"


@dataclass(frozen=True)
class Part:
    """One part on disk; `facts` is what its maker wrote down."""

    folder: Path
    chunks: tuple[Path, ...]
    facts: Mapping[str, Any]


def chunk_path(folder: Path, number: int) -> Path:
    """Where the n-th chunk of a part goes."""
    return folder / f"{number:05d}.parquet"


def write_chunk(table: pa.Table, path: Path) -> str:
    """Write a chunk, and return its SHA-256 in hex."""
    sink = pa.BufferOutputStream()
    # Nothing is looked up in it: dictionaries and statistics would be for nobody.
    pq.write_table(table, sink, compression="zstd", compression_level=1, use_dictionary=False, write_statistics=False)
    content = sink.getvalue()
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def finish_part(folder: Path, chunks: Mapping[str, str], facts: Mapping[str, Any]) -> Part:
    """Write down what is known of a part whose chunks are all there.

    Args:
        chunks: SHA-256 of each, by its name.
        facts: What its maker wants to know of it.
    """
    index = json.dumps({"chunks": dict(chunks), "facts": dict(facts)}, sort_keys=True)
    (folder / _INDEX).write_text(index, encoding="utf-8")
    return read_part(folder)


def read_part(folder: Path) -> Part:
    """A part that is there."""
    index = json.loads((folder / _INDEX).read_bytes())
    return Part(folder, tuple(folder / name for name in sorted(index["chunks"])), index["facts"])


def begin_part(folder: Path, earlier: Sequence[Path]) -> bool:
    """Make the folder of a part, unless it is there or a whole one of an earlier artifact can be linked in its place.

    Args:
        folder: `<artifact>/<kind>/<key>`. It may be there: two sources may be the same.
        earlier: Folders of earlier artifacts; one may vanish at any time.

    Returns:
        The part has to be made.
    """
    if folder.exists() or _take_over(folder.parent.name, folder.name, earlier, folder):
        return False
    folder.mkdir(parents=True)
    return True


def _take_over(kind: str, key: str, earlier: Sequence[Path], target: Path) -> bool:
    for artifact in earlier:
        with suppress(OSError, ValueError, KeyError):
            part = read_part(artifact / kind / key)
            target.mkdir(parents=True)
            _link([*part.chunks, part.folder / _INDEX], target)
            hashes = json.loads((target / _INDEX).read_bytes())["chunks"]
            if all(hash_file(target / name) == sha256 for name, sha256 in hashes.items()):
                return True
        shutil.rmtree(target, ignore_errors=True)
    return False


def _link(files: Iterable[Path], target: Path) -> None:
    for file in files:
        try:
            os.link(file, target / file.name)
        except OSError:
            shutil.copyfile(file, target / file.name)
