"""Tiny models of the real architectures, and a process of its own for each backend."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_pipeline.finetuning.device import Device, find_device
from ft_pipeline.recipe import TrainingSection
from ft_pipeline_tests.tiny_model import make_tokenizer

LLAMA_LINEAR = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
PHI3_LINEAR = ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 4,
    "pad_token_id": 2,
}
# A window shorter than the rows shows whether it is kept inside each of them.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": True},
    "mistral": {"tie_word_embeddings": False, "sliding_window": 8},
    # So low a cap bends the scores of random weights, too.
    "gemma2": {
        "tie_word_embeddings": True,
        "sliding_window": 8,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 1.0,
    },
    "gemma3_text": {"tie_word_embeddings": True, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "phi3": {"tie_word_embeddings": False, "sliding_window": None},
}


@dataclass(frozen=True)
class Layout:
    """The part of a plan's layout that a backend reads."""

    micro_batch_rows: int = 1
    row_tokens: int = 64
    packing: bool = True
    checkpointed_layers: int = 0
    offload_embeddings: bool = False
    optimizer: str = "adamw_torch"


@dataclass(frozen=True)
class Plan:
    """The part of a plan that a backend reads."""

    layout: Layout


def make_family(folder: Path, family: str, **config: Any) -> Path:
    """A base of random weights of this model type, fp32 so that losses can be compared closely, with a tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(5)
    vocabulary = make_tokenizer(folder)
    shape = AutoConfig.for_model(family, **{**_SIZES, "vocab_size": vocabulary, **FAMILIES[family], **config})
    model = AutoModelForCausalLM.from_config(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class TinyJob:
    """The part of a job that a backend reads."""

    base: Path
    settings: TrainingSection
    device: Device
    plan: Plan
    max_row_tokens: int
    scratch: Path


def make_job(base: Path, scratch: Path, settings: dict[str, Any], device: str = "cpu", **layout: Any) -> Any:
    """A job that a backend takes."""
    section = TrainingSection.model_validate(settings)
    return TinyJob(base, section, find_device(device), Plan(Layout(**layout)), 64, scratch)


def in_own_process(function: str, **arguments: Any) -> Any:
    """What a function of this folder's `backend_probes` finds; Unsloth patches all libraries of a process for good."""
    done = subprocess.run(
        [sys.executable, "-m", "ft_pipeline_tests.finetuning.backend_probes", function],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
