"""What `benchmarks.export` works on: a base of random weights in the shape of a known model, and a random adapter."""

from __future__ import annotations

import itertools
import json
import math
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ft_pipeline.durable import sync_tree
from ft_pipeline.finetuning import shapes as known
from ft_pipeline.finetuning.architecture import read_architecture

SHAPES: dict[str, Mapping[str, Any]] = {
    "tiny": {"model_type": "llama", "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 512}
    | {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512},
    "1b": known.SHAPES["llama-3.2-1b"],
    "3b": known.SHAPES["llama-3.2-3b"],
    "8b": known.SHAPES["llama-3.1-8b"],
}
_SHARD_BYTES = 4_000_000_000
_RANDOM_VALUES = (1 << 26) + 1
_SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
RANK = 16
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_inputs(base: Path, adapter: Path, shape_name: str) -> None:
    """A base of random weights in the shape, written shard by shard, and a random adapter; both with a tokenizer."""
    shape = SHAPES[shape_name]
    config = {"architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "dtype": "bfloat16"}
    config |= {"tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 4, "pad_token_id": 2, **shape}
    for folder in (base, adapter):
        folder.mkdir(parents=True)
        _write_tokenizer(folder, shape["vocab_size"])
    _write_weights(base, dict(read_architecture(config).list_tensors()))
    _write_adapter(adapter, base, dict(read_architecture(config).list_tensors()))
    (base / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    sync_tree(base)
    sync_tree(adapter)


def _write_weights(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    values = (torch.randn(_RANDOM_VALUES) * 0.02).to(torch.bfloat16)
    shards = list(_fill_shards(shapes))
    places = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {}
        for name in names:
            places[name], shape = file, shapes[name]
            if len(shape) == 1:
                tensors[name] = torch.ones(shape, dtype=torch.bfloat16)
                continue
            # Drawing each value anew would take minutes. No two matrices are alike: a head would be taken for tied.
            size = math.prod(shape)
            repeated = values.roll(len(places)).repeat(-(-size // len(values)))
            tensors[name] = repeated[:size].reshape(shape)
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 2 * sum(map(math.prod, shapes.values()))}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index | {"weight_map": places}), encoding="utf-8")


def _fill_shards(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[list[str]]:
    names, size = list[str](), 0
    for name, shape in shapes.items():
        tensor_bytes = 2 * math.prod(shape)
        if names and size + tensor_bytes > _SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += tensor_bytes
    yield names


def _write_adapter(folder: Path, base: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = {}
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] in LINEAR:
            key = f"base_model.model.{module}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(RANK, shape[1]) * shape[1] ** -0.5
            tensors[f"{key}.lora_B.weight"] = torch.randn(shape[0], RANK) * 0.01
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = {"peft_type": "LORA"}
    config |= {"task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "bias": "none"}
    config |= {"r": RANK, "lora_alpha": RANK, "lora_dropout": 0.0, "target_modules": LINEAR, "inference_mode": True}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _write_tokenizer(folder: Path, size: int) -> None:
    """A BPE with byte fallback, which the converter takes without knowing it: all words of up to four letters."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    words = (
        "".join(word) for length in (1, 2, 3, 4) for word in itertools.product(string.ascii_lowercase, repeat=length)
    )
    fixed = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    vocabulary = {token: index for index, token in enumerate([*fixed, *itertools.islice(words, size - len(fixed))])}
    pairs = ((word[:cut], word[cut:]) for word in list(vocabulary)[len(fixed) :] for cut in range(1, len(word)))
    tokenizer = Tokenizer(models.BPE(vocabulary, list(pairs), byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    roles = {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>", "pad_token": "</s>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=["<|im_start|>"], **roles)
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)
