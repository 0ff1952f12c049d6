"""Bases whose output layer is their input embedding, and adapters that change one of the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ft_pipeline.errors import ConversionError
from ft_pipeline.merging.adapter import Adapter, Update
from ft_pipeline.merging.shards import Shards

_EMBEDDINGS = ("embed_tokens.weight", "wte.weight")
_HEAD = "lm_head.weight"
_BLOCK_ROWS = 256


@dataclass(frozen=True)
class TiedHead:
    """An output layer that, by the configuration, shares its tensor with the embedding.

    Attributes:
        base: The base's tensors, in which the output layer has a name of its own.
        embedding: Name of the embedding.
        head: Name of the output layer.
        differs: It is stored all the same, with other values: then transformers does not tie it (modeling_utils.py,
            tie_weights).
    """

    base: Shards
    embedding: str
    head: str
    differs: bool = False


def find_tied_head(base: Shards, config: Mapping[str, Any]) -> TiedHead | None:
    """The output layer of a base that says it is the embedding; None if it says it has its own."""
    embedding = next((name for name in base.shapes if name.endswith(_EMBEDDINGS)), None)
    head = next((name for name in base.shapes if name.endswith(_HEAD)), None)
    text = config.get("text_config") or {}
    said = config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    # Configurations leave out what is their class's default: then a head that is not stored is the embedding.
    if embedding is None or not (head is None if said is None else said):
        return None
    if head is None:
        head = f"language_model.{_HEAD}" if embedding.startswith("language_model.model.") else _HEAD
        return TiedHead(base.with_alias(head, embedding), embedding, head)
    return TiedHead(base, embedding, head, differs=not _are_equal(base.read(head), base.read(embedding)))


def stays_tied(tied: TiedHead, adapter: Adapter, config: Mapping[str, Any]) -> bool:
    """Whether embedding and output layer are still the same once the adapter is merged.

    Where the adapter changes one of the two, training computed with two matrices: PEFT's layer adds its update to the
    one that it wraps. (PEFT's own merge_and_unload adds it to the shared tensor and so to both, which is not what the
    adapter computes.) Then both are written.

    Raises:
        ConversionError: they differ, and a GGUF of this family holds but one.
    """
    if tied.differs:
        return False
    embedding, head = (_find_change(adapter, tied.base, name) for name in (tied.embedding, tied.head))
    if embedding is None and head is None:
        return True
    if embedding is not None and head is not None and _change_alike(adapter, embedding, head):
        return True
    kind = str((config.get("text_config") or config).get("model_type"))
    if kind.startswith("gemma"):
        changed = [name for name in (tied.embedding, tied.head) if name in adapter.updates]
        raise ConversionError(
            f"an adapter must leave a tensor alone that the base uses twice (tie_word_embeddings), or change both uses "
            f"alike; {adapter.folder} changes {', '.join(changed)}, and a GGUF of {kind} cannot hold an output layer "
            "that differs from the embedding. Train without embed_tokens and lm_head."
        )
    return False


def untie_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a model whose output layer is its own."""
    untied = {**config, "tie_word_embeddings": False}
    if isinstance(text := config.get("text_config"), Mapping):
        untied["text_config"] = {**text, "tie_word_embeddings": False}
    return untied


def _find_change(adapter: Adapter, base: Shards, name: str) -> Update | None:
    update = adapter.updates.get(name)
    # PEFT saves an embedding that was never trained if it is told to (save_embedding_layers).
    if update and update.whole and not update.low_rank and _are_equal(adapter.slice(update.whole)[:], base.read(name)):
        return None
    return update


def _change_alike(adapter: Adapter, embedding: Update, head: Update) -> bool:
    if (embedding.magnitude, head.magnitude) != (None, None) or embedding.low_rank != head.low_rank:
        return False
    if bool(embedding.whole) != bool(head.whole):
        return False
    if embedding.whole and not _are_equal(adapter.slice(embedding.whole)[:], adapter.slice(str(head.whole))[:]):
        return False
    if not embedding.low_rank:
        return True
    # PEFT's ensure_weight_tying: the head's factors are the embedding's, transposed and exchanged.
    return (
        embedding.scaling == head.scaling
        and _are_equal(adapter.read(str(head.a)), adapter.read(str(embedding.b)).T)
        and _are_equal(adapter.read(str(head.b)), adapter.read(str(embedding.a)).T)
    )


def _are_equal(one: Any, other: Any) -> bool:
    """Whether two matrices hold the same numbers, in whatever types; a few rows of each become float32 at once."""
    import torch

    return one.shape == other.shape and all(
        torch.equal(some.float(), others.float())
        for some, others in zip(one.split(_BLOCK_ROWS), other.split(_BLOCK_ROWS), strict=True)
    )
