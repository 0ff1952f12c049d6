"""Which rows a file has: a hash of 8 bytes for each, kept in the store, so that new rows are told from old ones.

<store>/_retraining/<recipe>/rows/<sha256>-<kind>[.<compression>][-v<version>].npz

These are a cache, so none is upgraded: one that another version has written otherwise has another name and is not
looked for.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ft_pipeline.datasets.conversation import RowFault
from ft_pipeline.datasets.json_text import decode_json
from ft_pipeline.datasets.readers import READERS
from ft_pipeline.datasets.readers.batch import Batch, Record
from ft_pipeline.datasets.sources import SourceFile
from ft_pipeline.datasets.sources.open import open_rows
from ft_pipeline.durable import write_file
from ft_pipeline.errors import SourceError
from ft_pipeline.retraining.folder import recipe_folder, told_of_folder

_SUFFIX = ".npz"
# Of what is noted otherwise than in the first version, whose names say none.
_VERSIONS = {"csv": "-v2"}


@dataclass(frozen=True)
class Rows:
    """The rows of a file.

    Attributes:
        hashes: One for each row.
        ends_whole: Nothing says that the last row goes on.
        fault: Why the file cannot be read to its end; empty if it can.
    """

    hashes: NDArray[np.uint64]
    ends_whole: bool
    fault: str = ""


class _Lines:
    """The lines of a stream, and whether the last one that was read ends with a line break."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.is_ended = True

    def readline(self, limit: int) -> bytes:
        line = self._stream.readline(limit)
        if line:
            self.is_ended = line.endswith(b"\n")
        return line


class RowFolder:
    """The rows of all files that were looked at.

    Args:
        store_root: The artifact store's folder.
        recipe_name: The recipe's.
    """

    def __init__(self, store_root: Path, recipe_name: str) -> None:
        self._folder = recipe_folder(store_root, recipe_name) / "rows"

    def read(self, source: SourceFile, is_same: Callable[[], bool] = lambda: True) -> Rows:
        """The rows of a file; it is read once for as long as its bytes stay what they are.

        Args:
            is_same: Whether its bytes are still those of its hash; if not, what was read is not kept.

        Raises:
            OSError: it is gone, or the disk does not give it.
            ResourceError, ArtifactError: as of `told_of_folder`.
        """
        known = self.find(source.rows_key)
        if known is None:
            known = _read_rows(source)
            # A fault is told by who reads the file now: another version may have none with it.
            if known.fault or not is_same():
                return known
            content = io.BytesIO()
            np.savez(content, hashes=known.hashes, ends_whole=known.ends_whole)
            path = self._path(source.rows_key)
            with told_of_folder(path):
                write_file(path, content.getvalue())
        return known

    def find(self, rows_key: tuple[str, str]) -> Rows | None:
        """The rows of a file that was read before; None if it was not, or what is kept of it does not read.

        Args:
            rows_key: The file's `SourceFile.rows_key`.
        """
        try:
            content = io.BytesIO(self._path(rows_key).read_bytes())
            with np.load(content, allow_pickle=False) as found:
                if str(found.get("fault", "")):  # earlier versions kept it
                    return None
                return Rows(found["hashes"], bool(found["ends_whole"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def keep_only(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Forget all files but these, each by its `SourceFile.rows_key`."""
        names = {self._path(rows_key).name for rows_key in wanted}
        for path in self._folder.glob(f"*{_SUFFIX}"):
            if path.name not in names:
                path.unlink(missing_ok=True)

    def _path(self, rows_key: tuple[str, str]) -> Path:
        sha256, encoding = rows_key
        return self._folder / f"{sha256}-{encoding}{_VERSIONS.get(encoding, '')}{_SUFFIX}"


def count_new(now: Iterable[NDArray[np.uint64]], before: Iterable[NDArray[np.uint64]]) -> int:
    """How many different rows there are that were not there before, however often they stand there."""
    return len(np.setdiff1d(_join(now), _join(before)))


def _join(parts: Iterable[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    return np.concatenate([np.zeros(0, np.uint64), *parts])


def _read_rows(source: SourceFile) -> Rows:
    hashes, last, fault, is_ended = bytearray(), Batch(), "", True
    try:
        with open_rows(source) as stream:
            lines = _Lines(stream)
            taken = cast(BinaryIO, lines) if source.kind == "csv" else stream
            for batch in READERS[source.kind](taken, source.name):
                for row in _read_batch(batch):
                    hashes += hashlib.blake2b(row, digest_size=8).digest()
                last = batch
            is_ended = lines.is_ended
    except SourceError as err:
        if isinstance(err.__cause__, OSError) and err.__cause__.errno is not None:
            raise err.__cause__ from err  # of the machine, and gone by the next look; it says nothing of the bytes
        fault = str(err).removeprefix(f"{source.name}: ")
    return Rows(np.frombuffer(bytes(hashes), np.uint64), is_ended and _ends_whole(last), fault)


def _read_batch(batch: Batch) -> Iterator[bytes]:
    for record in batch.records:
        yield _show(record).encode(errors="surrogatepass")
    for line in batch.lines.split(b"\n"):
        if row := line.strip():
            yield row


def _show(record: Record) -> str:
    """The row, whole; of one that cannot be read its text, which is cut."""
    if record.fault:
        return record.text
    try:
        return json.dumps(record.value, sort_keys=True, default=str)
    except (TypeError, ValueError, RecursionError):  # keys of several types, or a row nested without end
        return record.show()


def _ends_whole(last: Batch) -> bool:
    """Whether the last row is one.

    A line of JSON that a line break ends was written to its end, whatever it says. One without is whole as an object
    alone: of a longer number, the beginning is one too. What a CSV row says never tells.
    """
    if last.records:
        return last.records[-1].fault is None
    line = last.lines.rpartition(b"\n")[2].strip()
    if not line:
        return True
    try:
        return isinstance(decode_json(line), dict)
    except RowFault:
        return False
