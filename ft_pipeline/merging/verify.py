"""Proof that a merge did what it should: read back from disk, a few rows at a time."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ft_pipeline.errors import ConversionError
from ft_pipeline.listing import tell_some
from ft_pipeline.merging.adapter import Update
from ft_pipeline.merging.layout import OutputFile
from ft_pipeline.merging.shards import FLOAT_TYPES, Shards, open_shards
from ft_pipeline.merging.values import Space, TensorValues, view_bytes

_SHOWN = 5
_WORD = 1 << 64
_UNTOUCHED = "is not changed by the adapter and differs from the base"


@dataclass(frozen=True)
class MergeCheck:
    """What a verified merge changed.

    Attributes:
        tensors: Number of tensors written.
        changed: Those that differ from the base's cast to the type that is written.
        untrained: Those that the adapter targets with a zero update.
        largest_relative_change: Over all tensors, the largest |merged - base| / |base| (Frobenius norms).
    """

    tensors: int
    changed: int
    untrained: int
    largest_relative_change: float


@dataclass
class Written:
    """What was written of a tensor.

    Attributes:
        changed: It differs from the base's cast.
        checksum: Sum of the bytes as 64-bit words, in whatever order they came.
        difference: Square of the norm of what was added.
        size: Square of the base's norm.
    """

    changed: bool = False
    checksum: int = 0
    difference: float = 0.0
    size: float = 0.0

    def add(self, piece: Written) -> None:
        """Another part of the same tensor."""
        self.changed |= piece.changed
        self.checksum = (self.checksum + piece.checksum) % _WORD
        self.difference += piece.difference
        self.size += piece.size


@dataclass
class Verification:
    """What was written and what is read back, gathered from several threads.

    A tensor that the adapter leaves alone, or takes the place of, is read once more and compared. Of the others the
    sums of what was computed and of what is on disk are compared; that they were computed right, the logits prove
    (`logits.py`).

    Attributes:
        written: The files' tensors as they shall be.
    """

    written: Shards
    space: Space
    sha256: dict[str, str] = field(default_factory=dict)
    _sums: dict[str, Written] = field(default_factory=dict)
    _problems: dict[str, str] = field(default_factory=dict)
    _read: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note_written(self, name: str, piece: Written) -> None:
        """Some rows of a tensor were written."""
        with self._lock:
            self._sums.setdefault(name, Written()).add(piece)

    def read_back(
        self, file: OutputFile, open_values: Callable[[str], TensorValues], check: Callable[[], None]
    ) -> None:
        """Read a whole file in order: compare its tensors, and hash it.

        Args:
            open_values: Gives the values of a tensor.
            check: Called every few milliseconds; what it raises ends the work.
        """
        with (self.written.folder / file.name).open("rb") as stream:
            header = stream.read(len(file.header))
        digest = hashlib.sha256(header)
        if header != file.header:
            self._problems[file.name] = "has another header than was written"
        for name in file.tensors:
            values, dtype = open_values(name), FLOAT_TYPES[self.written.places[name].kind]
            checksum = 0
            for start, stop in values.split(0, values.rows):
                check()
                after = self._read_rows(name, values, start, stop)
                digest.update(view_bytes(after))
                if not values.is_copied:
                    checksum = (checksum + add_words(after)) % _WORD
                elif not same_bits(cast(values.read_merged(start, stop), dtype, self.space), after):
                    self._problems[name] = "differs from the adapter's" if values.update else _UNTOUCHED
            if not values.is_copied and checksum != self._sums[name].checksum:
                self._problems[name] = "is not what was written"
            self._read.add(name)
        self.sha256[file.name] = digest.hexdigest()

    def conclude(self, updates: Mapping[str, Update]) -> MergeCheck:
        """Judge what was found, and see that headers and index are as they shall be.

        Raises:
            ConversionError: a tensor that should have changed and did not or the other way round, or a missing one.
                All of them are counted, the first ones named.
        """
        problems = _compare_headers(self.written) + [f"{name} {what}" for name, what in self._problems.items()]
        problems += [f"{name} was not read back" for name in self.written.shapes if name not in self._read]
        for name, update in updates.items():
            if update.must_change and name in self._sums and not self._sums[name].changed:
                problems.append(f"{name} is targeted by the adapter and unchanged")
        if problems:
            raise ConversionError(f"the merged model is not as it must be: {tell_some(problems, _SHOWN)}.")
        sums = self._sums.values()
        return MergeCheck(
            tensors=len(self.written.shapes),
            changed=sum(found.changed for found in sums),
            untrained=sum(update.untrained for update in updates.values()),
            largest_relative_change=max(((s.difference / s.size) ** 0.5 for s in sums if s.size), default=0.0),
        )

    def _read_rows(self, name: str, values: TensorValues, start: int, stop: int) -> Any:
        count, first = (stop - start) * values.row_values, start * values.row_values
        after = self.space.take("after", count, FLOAT_TYPES[self.written.places[name].kind])
        self.written.read_bytes(name, first * after.element_size(), view_bytes(after))
        return after


def _compare_headers(expected: Shards) -> list[str]:
    found = open_shards(expected.folder)
    return [
        f"{name} is {found.shapes.get(name, 'missing')} in {found.files.get(name, 'no file')}, "
        f"not {expected.shapes.get(name, 'wanted')}"
        for name in expected.shapes.keys() | found.shapes.keys()
        if (found.shapes.get(name), found.places.get(name)) != (expected.shapes.get(name), expected.places.get(name))
    ]


def cast(values: Any, dtype: str, space: Space, use: str = "cast") -> Any:
    """Flat values rounded once, in a buffer of that name."""
    return space.take(use, values.numel(), dtype).copy_(values)


def same_bits(one: Any, other: Any) -> bool:
    """Whether two flat 16-bit tensors hold the same bits."""
    import torch

    # Whole words: torch compares float16 value by value, at a tenth of the speed.
    word = torch.int64 if one.numel() % 4 == 0 else torch.int16
    return bool(torch.equal(one.view(word), other.view(word)))


def add_words(tensor: Any) -> int:
    """Sum of a flat 16-bit tensor's words of 64 bits, and of the values that are left over.

    It is the same for all ways to cut a tensor, as long as only its last part is no multiple of 4 values.
    """
    import torch

    whole = tensor.numel() // 4 * 4
    words, rest = tensor[:whole].view(torch.int64), tensor[whole:].view(torch.int16)
    return (int(words.sum()) + int(rest.sum())) % _WORD
