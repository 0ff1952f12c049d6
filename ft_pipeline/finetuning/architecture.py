"""What a model is made of, from its config.json alone: no weights, no torch.

Shapes and defaults are those of transformers' own classes (5.17, `modeling_*.py` and `configuration_*.py`); a test
builds each of them without weights and compares names and counts.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ft_pipeline.errors import BaseModelError, TrainingError

Shape = tuple[int, int]
_OUTPUT_LAYER = "lm_head"
_INPUT_LAYER = "embed_tokens"
_ATTENTION_LINEARS = {"q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "dense"}
# Of one decoder layer; the first two are Llama's, all four Gemma's.
_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True)
class _Family:
    """How a family differs from Llama.

    Attributes:
        norms: Vectors of `hidden_size` in one layer that scale: the first of `_NORMS`.
        has_head_norms: Queries and keys are scaled by vectors of `head_dim`.
        is_fused: q, k, v are one matrix, gate and up are one.
        is_phi: Another MLP, and a bias everywhere.
        qkv_bias: None: what `attention_bias` of the config says.
        defaults: What a config may leave out.
    """

    label: str
    norms: int = 2
    has_head_norms: bool = False
    is_fused: bool = False
    is_phi: bool = False
    qkv_bias: bool | None = None
    defaults: Mapping[str, Any] | None = None


_GEMMA = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True}
_FAMILIES = {
    "llama": _Family("Llama"),
    "mistral": _Family("Mistral", qkv_bias=False),
    "qwen2": _Family("Qwen2", qkv_bias=True),
    "qwen3": _Family("Qwen3", has_head_norms=True, defaults={"head_dim": 128}),
    "gemma2": _Family("Gemma2", norms=4, defaults={**_GEMMA, "vocab_size": 256_000}),
    "gemma3_text": _Family("Gemma3", norms=4, has_head_norms=True, defaults={**_GEMMA, "vocab_size": 262_208}),
    "phi3": _Family("Phi3", is_fused=True, qkv_bias=False),
    "phi": _Family("Phi", norms=1, is_phi=True, qkv_bias=True),
}
_COMPOSITES = {"gemma3": "gemma3_text"}


@dataclass(frozen=True)
class Architecture:
    """Shapes of a decoder.

    Attributes:
        linears: Shape (out, in) of each linear layer of one decoder layer, by the module's name.
        layer_vectors: Size of each norm and bias of one decoder layer, by the tensor's name in it.
        end_vectors: Size of those outside the decoder layers, by the tensor's whole name.
        linear_parameters: Of all decoder layers; these are what is quantized.
        embedding_parameters: Input embeddings, and the output layer unless it is the same tensor.
        context_tokens: Positions that the base was made for; 0 if its config does not say.
    """

    family: str
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary_size: int
    tied_embeddings: bool
    context_tokens: int
    linears: Mapping[str, Shape]
    layer_vectors: Mapping[str, int]
    end_vectors: Mapping[str, int]

    @property
    def linear_parameters(self) -> int:
        """Weights of the linear layers of all decoder layers, biases left out."""
        return self.layers * sum(rows * columns for rows, columns in self.linears.values())

    @property
    def embedding_parameters(self) -> int:
        """Weights that stay in 16 bits: input embeddings and output layer."""
        return self.vocabulary_size * self.hidden_size * (1 if self.tied_embeddings else 2)

    @property
    def norm_parameters(self) -> int:
        """Norms and biases of the whole model."""
        return self.layers * sum(self.layer_vectors.values()) + sum(self.end_vectors.values())

    @property
    def total_parameters(self) -> int:
        """All of them."""
        return self.linear_parameters + self.embedding_parameters + self.norm_parameters

    @property
    def query_size(self) -> int:
        """Width of the queries of all heads together."""
        return self.heads * self.head_dim

    @property
    def key_size(self) -> int:
        """Width of the keys, and that of the values."""
        return self.kv_heads * self.head_dim

    def list_tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every weight, as transformers saves them."""
        yield from self.list_end_tensors()
        of_a_layer = list(self.list_layer_tensors())
        for layer in range(self.layers):
            for name, shape in of_a_layer:
                yield f"model.layers.{layer}.{name}", shape

    def list_layer_tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Those of one decoder layer, by their name in it."""
        for name, shape in self.linears.items():
            yield f"{_locate(name)}.weight", shape
        for name, size in self.layer_vectors.items():
            yield name, (size,)

    def list_end_tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Those outside the decoder layers."""
        embedding = (self.vocabulary_size, self.hidden_size)
        yield f"model.{_INPUT_LAYER}.weight", embedding
        for name, size in self.end_vectors.items():
            yield name, (size,)
        if not self.tied_embeddings:
            yield f"{_OUTPUT_LAYER}.weight", embedding


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """Shapes of a model from its config.json.

    Args:
        config: A model's config; of one that reads images too, the text part counts.

    Raises:
        BaseModelError: the family is not known, or a field is missing or no positive integer.
    """
    kind = str(config.get("model_type"))
    nested = config.get("text_config")
    if isinstance(nested, Mapping) and kind in _COMPOSITES:
        config, kind = {**nested}, _COMPOSITES[kind]
    if kind not in _FAMILIES:
        known = ", ".join(sorted(_FAMILIES))
        raise BaseModelError(
            f"the base must be of a family that can be planned, got model_type '{kind}' in its config.json. Known: "
            f"{known}. Take a base of one of these."
        )
    return _assemble(_FAMILIES[kind], config)


def _assemble(family: _Family, config: Mapping[str, Any]) -> Architecture:
    known = {**(family.defaults or {}), **{name: value for name, value in config.items() if value is not None}}
    hidden, heads = _size(known, "hidden_size"), _size(known, "num_attention_heads")
    known = {"num_key_value_heads": heads, "head_dim": hidden // heads} | known
    layers, vocabulary = _size(known, "num_hidden_layers"), _size(known, "vocab_size")
    inner, head_dim = _size(known, "intermediate_size"), _size(known, "head_dim")
    kv_heads = _size(known, "num_key_value_heads")
    linears = _list_linears(family, hidden, inner, heads * head_dim, kv_heads * head_dim)
    return Architecture(
        family=family.label,
        layers=layers,
        hidden_size=hidden,
        intermediate_size=inner,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary_size=vocabulary,
        tied_embeddings=bool(known.get("tie_word_embeddings", False)),
        context_tokens=int(known.get("max_position_embeddings", 0)),
        linears=linears,
        layer_vectors=_list_layer_vectors(family, known, linears),
        end_vectors=_list_end_vectors(family, hidden, vocabulary),
    )


def _list_linears(family: _Family, hidden: int, inner: int, query: int, key: int) -> dict[str, Shape]:
    if family.is_fused:
        return {
            "qkv_proj": (query + 2 * key, hidden),
            "o_proj": (hidden, query),
            "gate_up_proj": (2 * inner, hidden),
            "down_proj": (hidden, inner),
        }
    attention = {"q_proj": (query, hidden), "k_proj": (key, hidden), "v_proj": (key, hidden)}
    if family.is_phi:
        return attention | {"dense": (hidden, query), "fc1": (inner, hidden), "fc2": (hidden, inner)}
    mlp = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    return attention | {"o_proj": (hidden, query)} | mlp


def _list_layer_vectors(family: _Family, config: Mapping[str, Any], linears: Mapping[str, Shape]) -> dict[str, int]:
    hidden, head_dim = int(config["hidden_size"]), int(config["head_dim"])
    vectors = {f"{name}.weight": hidden for name in _NORMS[: family.norms]}
    if family.is_phi:
        vectors["input_layernorm.bias"] = hidden
    if family.has_head_norms:
        vectors |= {"self_attn.q_norm.weight": head_dim, "self_attn.k_norm.weight": head_dim}
    return vectors | {f"{_locate(name)}.bias": linears[name][0] for name in _list_biased(family, config, linears)}


def _list_biased(family: _Family, config: Mapping[str, Any], linears: Mapping[str, Shape]) -> list[str]:
    """Linear layers with a bias."""
    if family.is_phi:
        return list(linears)
    names: list[str] = []
    if config.get("attention_bias") if family.qkv_bias is None else family.qkv_bias:
        names += ["q_proj", "k_proj", "v_proj"] + (["o_proj"] if family.qkv_bias is None else [])
    if family.label == "Llama" and config.get("mlp_bias"):
        names += ["gate_proj", "up_proj", "down_proj"]
    return names


def _list_end_vectors(family: _Family, hidden: int, vocabulary: int) -> dict[str, int]:
    if family.is_phi:
        norm = "model.final_layernorm"
        return {f"{norm}.weight": hidden, f"{norm}.bias": hidden, f"{_OUTPUT_LAYER}.bias": vocabulary}
    return {"model.norm.weight": hidden}


def _locate(linear: str) -> str:
    """A linear layer's name in its decoder layer."""
    return f"{'self_attn' if linear in _ATTENTION_LINEARS else 'mlp'}.{linear}"


def _size(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BaseModelError(
            f"{name} in the base's config.json must be a positive integer, got {value!r}. Fetch the base again."
        )
    return value


def find_targets(architecture: Architecture, wanted: str | tuple[str, ...], rank: int) -> dict[str, Shape]:
    """The linear layers that get an update: name and shape (out, in), of one decoder layer.

    Args:
        architecture: The base's.
        wanted: Names, or `all-linear`: all but the output layer.
        rank: Of the update.

    Raises:
        TrainingError: a name is no linear layer of the model, or the rank is above the hidden size.
    """
    if rank > architecture.hidden_size:
        raise TrainingError(
            f"training.lora.rank must be at most the base's hidden size ({architecture.hidden_size}), got {rank}: a "
            "higher one adds nothing. Lower it; 8 to 64 is usual."
        )
    if isinstance(wanted, str):
        return dict(architecture.linears)
    if unknown := [name for name in wanted if name not in architecture.linears]:
        raise TrainingError(_describe_unknown(architecture, unknown))
    return {name: architecture.linears[name] for name in wanted}


def _describe_unknown(architecture: Architecture, unknown: list[str]) -> str:
    has = ", ".join(sorted(architecture.linears))
    near = {name: difflib.get_close_matches(name, architecture.linears, n=1) for name in unknown}
    hints = "".join(f" Did you mean '{found[0]}' instead of '{name}'?" for name, found in near.items() if found)
    return (
        f"training.lora.target_modules must be linear layers of the model, got {', '.join(unknown)}: a "
        f"{architecture.family} model has {has}.{hints} 'all-linear' takes them all; the output layer "
        "is trained whole, by training.lora.modules_to_save."
    )


def count_saved_parameters(architecture: Architecture, modules_to_save: tuple[str, ...]) -> int:
    """Weights of the modules that are trained whole; PEFT takes each whose name ends in one of these.

    Raises:
        TrainingError: a name is no module of the model that has weights, or the base uses its tensor twice.
    """
    if not modules_to_save:
        return 0
    sizes = _count_module_weights(architecture)
    if unknown := [name for name in modules_to_save if name not in sizes]:
        raise TrainingError(
            f"training.lora.modules_to_save must be modules of the model, got {', '.join(unknown)}: a "
            f"{architecture.family} model has {', '.join(sorted(sizes))}."
        )
    shared = [name for name in modules_to_save if name in {_INPUT_LAYER, _OUTPUT_LAYER}]
    if shared and architecture.tied_embeddings:
        raise TrainingError(
            f"training.lora.modules_to_save must not name a tensor that the base uses twice: {', '.join(shared)} is "
            "input embedding and output layer in one (tie_word_embeddings), and a merged model would keep one of them "
            "only. Leave it out, or take a base whose embeddings are not tied."
        )
    return sum(size for name, size in sizes.items() if name.endswith(modules_to_save))


def _count_module_weights(architecture: Architecture) -> dict[str, int]:
    """Weights of all modules of one name, by the name's last part."""
    sizes: dict[str, int] = {_OUTPUT_LAYER: 0}
    for times, tensors in (
        (architecture.layers, architecture.list_layer_tensors()),
        (1, architecture.list_end_tensors()),
    ):
        for tensor, shape in tensors:
            module = tensor.split(".")[-2]
            sizes[module] = sizes.get(module, 0) + times * math.prod(shape)
    return sizes
