"""Files of a layout, written in any order from several threads."""

from __future__ import annotations

import os
from types import TracebackType

from ft_pipeline.base_weights import INDEX_FILE
from ft_pipeline.merging.flush import Flusher
from ft_pipeline.merging.layout import Layout


class LayoutWriter:
    """The open files of a layout. As a context: after an error nothing of them is left."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._folder = layout.weights.folder
        self._descriptors: dict[str, int] = {}
        self._flusher = Flusher()

    def __enter__(self) -> LayoutWriter:
        try:
            for file in self._layout.files:
                flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
                self._descriptors[file.name] = descriptor = os.open(self._folder / file.name, flags, 0o644)
                os.truncate(descriptor, file.size_bytes)
                _write_all(descriptor, memoryview(file.header), 0)
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._flusher.wait()
        except BaseException:
            self._discard()
            raise
        self._close()

    def write(self, name: str, offset: int, buffer: memoryview) -> None:
        """Write some bytes of a tensor.

        Raises:
            OSError: the disk is full, or does not take it.
        """
        place = self._layout.weights.places[name]
        descriptor = self._descriptors[place.file]
        try:
            _write_all(descriptor, buffer, place.offset + offset)
        except OSError as err:
            raise OSError(err.errno, err.strerror, str(self._folder / place.file)) from err
        self._flusher.add(descriptor, len(buffer))

    def complete(self, file: str) -> None:
        """Nothing more will be written to a file."""
        self._flusher.complete(self._descriptors[file])

    def _discard(self) -> None:
        self._flusher.stop()
        self._close()
        for name in (*(file.name for file in self._layout.files), INDEX_FILE):
            (self._folder / name).unlink(missing_ok=True)

    def _close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()


def _write_all(descriptor: int, buffer: memoryview, offset: int) -> None:
    done = 0
    while done < len(buffer):
        done += os.pwrite(descriptor, buffer[done:], offset + done)
