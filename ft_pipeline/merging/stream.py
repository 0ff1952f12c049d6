"""The merge as a stream: each piece of each tensor is read, updated, cast once, written, and later read back."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ft_pipeline.errors import BaseModelError, ConversionError
from ft_pipeline.listing import tell_some
from ft_pipeline.merging.adapter import Adapter
from ft_pipeline.merging.layout import Layout, OutputFile
from ft_pipeline.merging.nf4 import RoundedTensor, round_tensor
from ft_pipeline.merging.parallel import Task, Workers
from ft_pipeline.merging.shards import Shards, element_count
from ft_pipeline.merging.values import Space, TensorValues, split_rows, view_bytes
from ft_pipeline.merging.verify import MergeCheck, Verification, Written, add_words, cast, same_bits
from ft_pipeline.merging.writer import LayoutWriter

# A task: 64 MiB of what is written.
_PIECE_VALUES = 1 << 25
_HASH_BYTES = 4 << 20
_SHOWN = 5


@dataclass(frozen=True)
class Sources:
    """What a merge reads.

    Attributes:
        base: By all names that are written.
        quantized: Tensors that training saw rounded to NF4.
        base_dtype: torch's name of the type that it computed in.
    """

    base: Shards
    adapter: Adapter
    quantized: set[str] = field(default_factory=set)
    base_dtype: str = "bfloat16"
    space: Space = field(default_factory=Space)

    def open(self, name: str, check: Callable[[], None], *, only_copied: bool = False) -> TensorValues:
        """One tensor's values.

        Args:
            check: Called every few milliseconds; what it raises ends the work.
            only_copied: Do not prepare those whose product with the adapter is not needed.
        """
        values = TensorValues(self.base, name, self.adapter, self.space)
        if name not in self.quantized or (only_copied and not values.is_copied):
            return values
        return TensorValues(self.base, name, self.adapter, self.space, self._round(name, check))

    def split(self, name: str) -> Iterator[tuple[int, int]]:
        """Cut a tensor into pieces for tasks, in rows as `TensorValues` counts them."""
        values = TensorValues(self.base, name, self.adapter, self.space)
        # What needs the whole tensor beforehand is done in one go.
        is_one = name in self.quantized or (values.update and values.update.magnitude and values.update.transposed)
        limit = values.rows * values.row_values if is_one else _PIECE_VALUES
        return split_rows(0, values.rows, values.row_values, limit)

    def _round(self, name: str, check: Callable[[], None]) -> RoundedTensor:
        plain = TensorValues(self.base, name, None, self.space)

        def read(start: int, stop: int) -> Any:
            check()
            return plain.read_base(start, stop)

        return round_tensor(read, element_count(self.base.shapes[name]), self.base_dtype)


class StreamedMerge:
    """All tasks of a merge.

    Args:
        sources: What it reads.
        layout: What it writes.
        writer: Of that layout.
        base_hashes: SHA-256 of files of the base, by name, which are then checked.
        tell_written: Called with the name of each file that is written, in the thread of a worker.
    """

    def __init__(
        self,
        sources: Sources,
        layout: Layout,
        writer: LayoutWriter,
        base_hashes: Mapping[str, str],
        tell_written: Callable[[str], None],
    ) -> None:
        self._sources, self._layout, self._writer = sources, layout, writer
        self._hashes, self._tell_written = base_hashes, tell_written
        self._dtype = layout.dtype
        self._overflow = f"overflows {layout.dtype}"
        self._verification = Verification(layout.weights, sources.space)
        self._left = {file.name: 0 for file in layout.files}
        self._lock = threading.Lock()
        self._unfit: dict[str, str] = {}

    @property
    def sha256(self) -> dict[str, str]:
        """By file name, of the files that were read back."""
        return dict(sorted(self._verification.sha256.items()))

    def run(self, report: Callable[[int, int], None]) -> MergeCheck:
        """Write all files, read them back, and hash them.

        Args:
            report: Called now and then with the numbers of tasks done and known.

        Raises:
            BaseModelError: a file of the base is not what its hash says.
            ConversionError: a value that is not finite, or what was written is not as it must be.
            OSError: the disk is full.
        """
        self._workers = Workers(self._list_tasks())
        self._workers.run(report)
        if self._unfit:
            raise ConversionError(self._describe_unfit())
        self._layout.write_index()
        return self._verification.conclude(self._sources.adapter.updates)

    def _list_tasks(self) -> Iterator[Task]:
        for name, expected in self._hashes.items():
            yield partial(self._check_hash, self._sources.base.folder / name, expected)
        for file in self._layout.files:
            pieces = [(name, *rows) for name in file.tensors for rows in self._sources.split(name)]
            self._left[file.name] = len(pieces)
            yield from (partial(self._write, file, *piece) for piece in pieces)

    def _write(self, file: OutputFile, name: str, start: int, stop: int) -> list[Task]:
        values, space = self._sources.open(name, self._workers.check), self._sources.space
        written = Written()
        for first, last in values.split(start, stop):
            self._workers.check()
            merged = cast(values.read_merged(first, last), self._dtype, space)
            if not _is_finite(merged):
                self._note_unfit(name, values.read_base(first, last, use="product"))
            if self._unfit:
                continue
            self._writer.write(name, first * values.row_values * merged.element_size(), view_bytes(merged))
            if values.update is not None:
                written.checksum += add_words(merged)
                written.changed = written.changed or self._is_changed(values, first, last, merged)
        written.difference, written.size = values.difference, values.size
        self._verification.note_written(name, written)
        return self._finish_piece(file)

    def _is_changed(self, values: TensorValues, first: int, last: int, merged: Any) -> bool:
        before = values.read_base(first, last, use="product")
        return not same_bits(cast(before, self._dtype, self._sources.space, use="before"), merged)

    def _finish_piece(self, file: OutputFile) -> list[Task]:
        with self._lock:
            self._left[file.name] -= 1
            if self._left[file.name] or self._unfit:
                return []
        self._writer.complete(file.name)
        self._tell_written(file.name)
        return [partial(self._read_back, file)]

    def _read_back(self, file: OutputFile) -> None:
        check = self._workers.check
        self._verification.read_back(file, lambda name: self._sources.open(name, check, only_copied=True), check)

    def _check_hash(self, path: Path, expected: str) -> None:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_HASH_BYTES):
                self._workers.check()
                digest.update(chunk)
        if (found := digest.hexdigest()) != expected:
            raise BaseModelError(
                f"a weight file must be the published one; the SHA-256 of {path} is {found}, not {expected}. "
                "It is damaged: delete it, and fetch it again."
            )

    def _note_unfit(self, name: str, before: Any) -> None:
        if before.isnan().any():
            what = "holds NaN in the base"
        elif before.isinf().any():
            what = "holds infinity in the base"
        else:
            what = self._overflow
        with self._lock:
            self._unfit.setdefault(name, what)

    def _describe_unfit(self) -> str:
        # In the order of the model, however the threads came along.
        unfit = [f"{name} {self._unfit[name]}" for name in self._layout.weights.shapes if name in self._unfit]
        if set(self._unfit.values()) != {self._overflow}:
            fix = "The base is damaged: fetch it again."
        elif self._dtype == "float16":
            fix = "float16 ends at 65504, bfloat16 does not: set merging.dtype: bfloat16."
        else:
            fix = "The training diverged: train again with a lower learning rate."
        return f"merged weights must be finite numbers; {tell_some(unfit, _SHOWN)}. {fix}"


def _is_finite(tensor: Any) -> bool:
    import torch

    # Smallest and largest value are NaN if any is; fifteen times as fast as isfinite().all().
    return bool(torch.stack(torch.aminmax(tensor)).isfinite().all()) if tensor.numel() else True
