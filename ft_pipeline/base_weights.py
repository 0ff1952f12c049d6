"""Whether a base's weights are those that its config.json describes; of its files only the headers are read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft_pipeline.errors import BaseModelError
from ft_pipeline.finetuning.architecture import Architecture, read_architecture

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
_Shapes = dict[str, tuple[int, ...]]
_FIX = "Fetch the base again; if config.json was changed, bring it back."


def read_index(folder: Path) -> dict[str, str] | None:
    """In which file of a model folder each tensor is, by its index; None: there is one file at most, without an index.

    Raises:
        BaseModelError: the index is malformed or names files elsewhere, or there is a single file as well: transformers
            reads that one, llama.cpp's converter both.
    """
    path = folder / INDEX_FILE
    if not path.is_file():
        return None
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files = {str(name): str(Path(file)) for name, file in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise BaseModelError(f"{path} must be an index of safetensors: {err!r}. Fetch the model again.") from err
    if outside := [file for file in files.values() if Path(file).name != file]:
        raise BaseModelError(f"{path} must name files beside it, got {outside[0]!r}. Do not use this model.")
    if not files:
        raise BaseModelError(f"{path} must name the tensors of the model, and names none. Fetch the model again.")
    if (folder / SINGLE_FILE).is_file():
        raise BaseModelError(
            f"a model folder must hold its weights once; {folder} has {SINGLE_FILE} and {INDEX_FILE}, and nobody can "
            "say which of them is meant. Remove one of the two, with its files."
        )
    return files


def require_weights(folder: Path, files: list[Path], config: Mapping[str, Any]) -> None:
    """Refuse weights that the config does not describe: what it names in vain would be trained from random numbers.

    Raises:
        BaseModelError: a file is damaged, the base is quantized or of a family that is not known, or a tensor is
            missing, of another shape, or of a layer that the config does not count.
    """
    if config.get("quantization_config"):
        raise BaseModelError(
            f"a base must be in 16 bits, as its adapter is merged into it; {folder / 'config.json'} says that it is "
            "quantized (quantization_config). Name the 16-bit model that it was made from."
        )
    architecture, found = read_architecture(config), _read_shapes(files)
    if "text_config" in config:
        # The text part of a model that reads images: `language_model.model.` or, newer, `model.language_model.`.
        found = {name.replace("language_model.", "", 1): shape for name, shape in found.items()}
    if wrong := _find_wrong(architecture, found):
        raise BaseModelError(
            f"the base's weights must be those that its config.json describes; in {folder} {wrong}. {_FIX}"
        )


def _find_wrong(architecture: Architecture, found: _Shapes) -> str:
    for name, shape in architecture.list_tensors():
        if name not in found:
            return f"{name} is missing, by the config {list(shape)}{_explain(name, architecture)}"
        if found[name] != shape:
            return f"{name} is {list(found[name])}, by the config {list(shape)}{_explain(name, architecture)}"
    for name in found:
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        if layer and int(layer[1]) >= architecture.layers:
            return f"there is {name}, which is beyond the config's layers{_explain(name, architecture)}"
    return ""


def _explain(name: str, architecture: Architecture) -> str:
    if name.startswith("model.layers."):
        return f" (num_hidden_layers: {architecture.layers})"
    tied = str(architecture.tied_embeddings).lower()
    return f" (vocab_size: {architecture.vocabulary_size}, tie_word_embeddings: {tied})"


def _read_shapes(files: list[Path]) -> _Shapes:
    from safetensors import SafetensorError, safe_open

    shapes: _Shapes = {}
    for path in files:
        try:
            with safe_open(path, framework="numpy") as weights:
                shapes |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as err:
            raise BaseModelError(
                f"a weight file must be whole; {path} is damaged or truncated ({err}). Fetch it again."
            ) from err
    return shapes
