"""A model's weights in safetensors, one file or several with an index, read in pieces of any size."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ft_pipeline.base_weights import INDEX_FILE, SINGLE_FILE, read_index
from ft_pipeline.errors import BaseModelError

# safetensors' name of a type to torch's.
FLOAT_TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes lie.

    Attributes:
        kind: safetensors' name of its type, such as BF16.
    """

    file: str
    kind: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Shards:
    """The tensors of a model folder.

    Attributes:
        folder: Where they lie.
        shapes: Tensor name to shape, in the order of the files.
        places: Tensor name to its bytes.
    """

    folder: Path
    shapes: dict[str, tuple[int, ...]]
    places: dict[str, Place]

    @property
    def files(self) -> dict[str, str]:
        """Tensor name to the name of the file that holds it."""
        return {name: place.file for name, place in self.places.items()}

    @property
    def size_bytes(self) -> int:
        """Size of all files together."""
        return sum((self.folder / file).stat().st_size for file in set(self.files.values()))

    def read(self, name: str) -> Any:
        """One tensor as a `torch.Tensor` of its own on the CPU, in the type that it is stored in."""
        with safe_open(self.folder / self.places[name].file, framework="pt") as shard:
            # A name that stands for another tensor is in no file.
            return shard.get_tensor(self._stored_name(name))

    def read_columns(self, name: str, start: int, stop: int) -> Any:
        """Some columns of a matrix, likewise."""
        with safe_open(self.folder / self.places[name].file, framework="pt") as shard:
            return shard.get_slice(self._stored_name(name))[:, start:stop]

    def read_bytes(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill a buffer from a tensor's bytes. Memory stays what the buffer takes, where a mapped file would grow.

        Raises:
            BaseModelError: the file has become shorter since it was opened.
        """
        place = self.places[name]
        with (self.folder / place.file).open("rb", buffering=0) as file:
            file.seek(place.offset + offset)
            done = 0
            while done < len(buffer):
                count = file.readinto(buffer[done:])
                if not count:
                    raise BaseModelError(
                        f"a weight file must be whole; {file.name} ends within {name}. Fetch it again."
                    )
                done += count

    def with_alias(self, name: str, stored: str) -> Shards:
        """The same with another name for one of the tensors."""
        return replace(
            self,
            shapes=self.shapes | {name: self.shapes[stored]},
            places=self.places | {name: self.places[stored]},
        )

    def _stored_name(self, name: str) -> str:
        return next(other for other, place in self.places.items() if place == self.places[name])


def open_shards(folder: Path) -> Shards:
    """Read the headers of all weight files of a model folder.

    Raises:
        BaseModelError: no safetensors, a missing or truncated file, or an index that does not match the files.
    """
    index = read_index(folder)
    if index is None and not (folder / SINGLE_FILE).is_file():
        raise BaseModelError(_describe_no_weights(folder))
    names = sorted(set(index.values())) if index is not None else [SINGLE_FILE]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise BaseModelError(
            f"a model folder must hold all of its weights; {folder} lacks {', '.join(missing)}. "
            "Fetch the missing files, or the whole model, again."
        )
    shapes: dict[str, tuple[int, ...]] = {}
    places: dict[str, Place] = {}
    for name in names:
        for tensor, shape, place in _read_header(folder / name):
            shapes[tensor] = shape
            places[tensor] = place
    files = {name: place.file for name, place in places.items()}
    if index is not None and index != files:
        wrong = sorted(name for name in index.keys() | files.keys() if index.get(name) != files.get(name))
        raise BaseModelError(
            f"{folder / INDEX_FILE} must name the tensors that its files hold, each in its file; "
            f"{len(wrong)} differ, the first is {wrong[0]!r}. Fetch the model again."
        )
    return Shards(folder, shapes, places)


def _describe_no_weights(folder: Path) -> str:
    others = sorted(p.name for p in folder.glob("*.bin")) if folder.is_dir() else []
    return (
        f"a model folder must hold {SINGLE_FILE} or {INDEX_FILE}; {folder} has neither"
        + (f", only {', '.join(others)}, which is not read because loading it can run code" if others else "")
        + ". Use a model that is published as safetensors."
    )


def _read_header(path: Path) -> list[tuple[str, tuple[int, ...], Place]]:
    """Name, shape and place of a file's tensors, in the order of their bytes.

    The library checks the file; where the bytes lie it keeps to itself (https://github.com/huggingface/safetensors,
    "Format").
    """
    try:
        with safe_open(path, framework="pt"), path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = json.loads(file.read(length))
    except (SafetensorError, OSError) as err:
        raise BaseModelError(
            f"a weight file must be whole; {path} is damaged or truncated ({err}). Fetch it again."
        ) from err
    header.pop("__metadata__", None)
    found = []
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        shape = tuple(entry["shape"])
        place = Place(path.name, entry["dtype"], _LENGTH_BYTES + length + start, stop - start)
        found.append((name, shape, place))
    return found


def element_count(shape: tuple[int, ...]) -> int:
    """Number of values of a tensor."""
    return math.prod(shape)
