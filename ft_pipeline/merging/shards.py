"""A model's weights in safetensors, one file or several with an index, read one tensor at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ft_pipeline.errors import BaseModelError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True)
class Shards:
    """The tensors of a model folder.

    Attributes:
        folder: Where they lie.
        shapes: Tensor name to shape, in the order of the files.
        files: Tensor name to the name of the file that holds it.
    """

    folder: Path
    shapes: dict[str, tuple[int, ...]]
    files: dict[str, str]

    def read(self, name: str) -> Any:
        """One tensor as a `torch.Tensor` on the CPU, in the type that it is stored in."""
        with safe_open(self.folder / self.files[name], framework="pt") as shard:
            return shard.get_tensor(name)

    @property
    def size_bytes(self) -> int:
        """Size of all files together."""
        return sum((self.folder / file).stat().st_size for file in set(self.files.values()))


def open_shards(folder: Path) -> Shards:
    """Read the headers of all weight files of a model folder.

    Raises:
        BaseModelError: no safetensors, a missing or truncated file, or an index that does not match the files.
    """
    index = _read_index(folder)
    names = sorted(set(index.values())) if index is not None else [SINGLE_FILE]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise BaseModelError(
            f"a model folder must hold all of its weights; {folder} lacks {', '.join(missing)}. "
            "Fetch the missing files, or the whole model, again."
        )
    shapes: dict[str, tuple[int, ...]] = {}
    files: dict[str, str] = {}
    for name in names:
        for tensor, shape in _read_header(folder / name).items():
            shapes[tensor] = shape
            files[tensor] = name
    if index is not None and index != files:
        wrong = sorted(name for name in index.keys() | files.keys() if index.get(name) != files.get(name))
        raise BaseModelError(
            f"{folder / INDEX_FILE} must name the tensors that its files hold, each in its file; "
            f"{len(wrong)} differ, the first is {wrong[0]!r}. Fetch the model again."
        )
    return Shards(folder, shapes, files)


def _read_index(folder: Path) -> dict[str, str] | None:
    path = folder / INDEX_FILE
    if path.is_file():
        try:
            weight_map: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError) as err:
            raise BaseModelError(f"{path} is no index of safetensors ({err}). Fetch the model again.") from err
        outside = [name for name in weight_map.values() if Path(name).name != name]
        if outside:
            raise BaseModelError(f"{path} must name files beside it, got {outside[0]!r}. Do not use this model.")
        return weight_map
    if (folder / SINGLE_FILE).is_file():
        return None
    others = sorted(p.name for p in folder.glob("*.bin")) if folder.is_dir() else []
    raise BaseModelError(
        f"a model folder must hold {SINGLE_FILE} or {INDEX_FILE}; {folder} has neither"
        + (f", only {', '.join(others)}, which is not read because loading it can run code" if others else "")
        + ". Use a model that is published as safetensors."
    )


def _read_header(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="pt") as shard:
            return {name: tuple(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as err:
        raise BaseModelError(
            f"a weight file must be whole; {path} is damaged or truncated ({err}). Fetch it again."
        ) from err
