"""Reads a source, decompressed, with a limit on what a compressed file may become."""

from __future__ import annotations

import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from ft_pipeline.datasets.sources.source_file import SourceFile
from ft_pipeline.datasets.sources.suffixes import split_suffix
from ft_pipeline.errors import SourceError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MIN_LIMIT_BYTES = 1 << 30
MAX_RATIO = 200
_BUFFER_BYTES = 1 << 20


@contextmanager
def open_rows(source: SourceFile) -> Iterator[BinaryIO]:
    """The decompressed bytes for the source's reader; Parquet, which is not read from front to back, can be sought in.

    Raises:
        SourceError: as of `open_source`.
    """
    with open_source(source.path, source.name) as stream:
        if source.kind != "parquet" or stream.seekable():
            yield stream
            return
        with tempfile.TemporaryFile() as file:
            shutil.copyfileobj(stream, file)
            yield file


@contextmanager
def open_source(path: Path, name: str) -> Iterator[BinaryIO]:
    """The bytes of a source, decompressed if its name says so. Only an uncompressed one can seek.

    Args:
        path: Where it lies.
        name: `SourceFile.name`; its suffix says how it is compressed.

    Raises:
        SourceError: it cannot be read, is truncated or no such archive, or becomes larger than the larger of
            `MIN_LIMIT_BYTES` and `MAX_RATIO` times its size; also while the stream is read.
    """
    _, compression = split_suffix(name)
    try:
        with path.open("rb") as file:
            if compression is None:
                yield file
                return
            compressed_bytes = path.stat().st_size
            if compressed_bytes == 0:
                raise SourceError(f"{name}: is empty, and so no {compression} archive. Make it again")
            with _decompress(file, compression) as stream:
                limited = _Limited(stream, name, compression, compressed_bytes)
                with io.BufferedReader(limited, _BUFFER_BYTES) as buffered:
                    yield cast(BinaryIO, buffered)
    except OSError as err:
        raise SourceError(f"{name}: cannot be read: {err.strerror or err}") from err


def _decompress(file: BinaryIO, compression: str) -> BinaryIO:
    if compression == "gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb"))
    import pyarrow as pa

    return cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))


class _Limited(io.RawIOBase):
    """Counts what comes out of an archive, and names the archive in errors."""

    def __init__(self, stream: BinaryIO, name: str, compression: str, compressed_bytes: int) -> None:
        self._stream = stream
        self._name = name
        self._compression = compression
        self._compressed_bytes = compressed_bytes
        self._limit_bytes = max(MIN_LIMIT_BYTES, MAX_RATIO * compressed_bytes)
        self._read_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        try:
            chunk = self._stream.read(len(view))
        except (OSError, EOFError, zlib.error) as err:
            raise SourceError(
                f"{self._name}: is truncated or no {self._compression} archive ({err}), after "
                f"{self._read_bytes} bytes that could be read. Make or copy it again"
            ) from err
        self._read_bytes += len(chunk)
        if self._read_bytes > self._limit_bytes:
            raise SourceError(
                f"{self._name}: {self._compressed_bytes} bytes become more than {self._limit_bytes} when decompressed, "
                f"the limit ({MAX_RATIO} times, at least {MIN_LIMIT_BYTES}). Decompress it beforehand if that is right"
            )
        view[: len(chunk)] = chunk
        return len(chunk)
