"""Tiny bases and LoRA adapters with random factors, made and saved by transformers and PEFT themselves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ft_pipeline_tests.tiny_model import make_tokenizer

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_LINEAR_OF = {
    "phi": ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"],
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
}
_SIZES: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 4,
    "pad_token_id": 2,
}


def make_base(
    folder: Path,
    architecture: str = "llama",
    *,
    max_shard_size: str = "1GB",
    dtype: str = "bfloat16",
    **config: Any,
) -> Path:
    """A base; every value, norms and biases too, is random and not representable in float16 alone.

    Args:
        architecture: A model type of transformers: llama, qwen2, ...
        max_shard_size: Below the model's size: several files with an index.
        dtype: torch's name of the type of the weights.
        config: Changes of the configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **{**_SIZES, **config}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.05 + 0.01)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=max_shard_size)
    make_tokenizer(folder)
    return folder


def make_adapter(folder: Path, base: Path, *, trained: bool = True, **config: Any) -> Path:
    """A LoRA adapter on a base, with the tokenizer beside it.

    Args:
        trained: The factor that is zero at the start of training (B; of an embedding, A) is random, and what starts as
            a copy of the base (DoRA's magnitudes, modules that are trained whole) is no copy any more.
        config: Fields of `peft.LoraConfig`.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    linear = _LINEAR_OF.get(model.config.model_type, LINEAR)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": linear, **config}
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if trained and ("lora_B" in name or name.endswith(".bias") or "lora_embedding_A" in name):
                parameter.copy_(torch.randn_like(parameter) * 0.1)
            elif trained and ("lora_magnitude_vector" in name or "modules_to_save" in name):
                parameter.mul_(1 + 0.1 * torch.rand_like(parameter))
    adapted.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(base / name, folder / name)
    return folder
