"""Where every tensor of a model to be written will lie: the files, their headers and the index are known beforehand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.base_weights import INDEX_FILE, SINGLE_FILE
from ft_pipeline.merging.shards import FLOAT_TYPES, Place, Shards, element_count

# A file is read back and hashed in order, by one core.
MAX_FILE_BYTES = 10**9
# safetensors asks for 8. A page's is free, and files are written and mapped faster: 4 against 2.4 GB/s to the cache.
_ALIGNMENT = 4096
_LENGTH_BYTES = 8
_VALUE_BYTES = 2


@dataclass(frozen=True)
class OutputFile:
    """A safetensors file to be written.

    Attributes:
        header: All bytes before the first tensor's.
        tensors: In the order of their bytes.
    """

    name: str
    header: bytes
    tensors: tuple[str, ...]
    size_bytes: int


@dataclass(frozen=True)
class Layout:
    """A model folder's weights to be written.

    Attributes:
        weights: The same as `open_shards` will find.
        dtype: torch's name of their type.
    """

    files: list[OutputFile]
    weights: Shards
    dtype: str

    def write_index(self) -> None:
        """The index, if there are several files."""
        if len(self.files) == 1:
            return
        places = self.weights.places
        index = {
            "metadata": {"total_size": sum(place.nbytes for place in places.values())},
            "weight_map": {name: places[name].file for name in sorted(places)},
        }
        path = self.weights.folder / INDEX_FILE
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def lay_out(folder: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> Layout:
    """Spread tensors of a 16-bit type over files of about the same size, none above 1 GB but for a larger tensor.

    Args:
        shapes: Of all tensors, in the order in which they are to lie.
        dtype: torch's name of their type.
    """
    kind = next(kind for kind, name in FLOAT_TYPES.items() if name == dtype)
    groups = list(_group(shapes, MAX_FILE_BYTES))
    files: list[OutputFile] = []
    places: dict[str, Place] = {}
    for number, names in enumerate(groups, start=1):
        name = SINGLE_FILE if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        header, offsets, size = _make_header(names, shapes, kind)
        places |= {tensor: Place(name, kind, start, stop - start) for tensor, (start, stop) in offsets.items()}
        files.append(OutputFile(name, header, tuple(names), size))
    return Layout(files, Shards(folder, {name: shapes[name] for name in places}, places), dtype)


def _group(shapes: Mapping[str, tuple[int, ...]], limit: int) -> Iterator[list[str]]:
    sizes = {name: element_count(shape) * _VALUE_BYTES for name, shape in shapes.items()}
    total = sum(sizes.values())
    target = total / max(1, -(-total // limit))
    group: list[str] = []
    filled = in_group = 0
    for name, size in sizes.items():
        # The file ends where the next one's share begins, or before it would be too large.
        if group and (in_group + size > limit or filled >= target):
            yield group
            group, in_group = [], 0
            filled -= min(filled, int(target))
        group.append(name)
        in_group += size
        filled += size
    yield group


def _make_header(
    names: list[str], shapes: Mapping[str, tuple[int, ...]], kind: str
) -> tuple[bytes, dict[str, tuple[int, int]], int]:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offsets: dict[str, tuple[int, int]] = {}
    end = 0
    for name in names:
        start, end = end, end + element_count(shapes[name]) * _VALUE_BYTES
        header[name] = {"dtype": kind, "shape": list(shapes[name]), "data_offsets": [start, end]}
        offsets[name] = (start, end)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(_LENGTH_BYTES + len(text)) % _ALIGNMENT)
    head = len(text).to_bytes(_LENGTH_BYTES, "little") + text
    return head, {name: (len(head) + a, len(head) + b) for name, (a, b) in offsets.items()}, len(head) + end
