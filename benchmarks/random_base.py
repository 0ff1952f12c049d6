"""A base of random weights in the real shape of a known model: good for speed and memory, not for answers.

python -m benchmarks.random_base FOLDER SHAPE [gsm8k/train.jsonl]
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ft_pipeline.finetuning import shapes as known

_TINY = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"model_type": "llama", "vocab_size": 32000} | _TINY,
    "1b": {**known.SHAPES["llama-3.2-1b"]},
    "7b": {**known.SHAPES["llama-2-7b"]},
    "8b": {**known.SHAPES["llama-3.1-8b"]},
    "13b": {**known.SHAPES["llama-2-13b"]},
}
_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
_WORDS = [
    "the",
    "price",
    "of",
    "a",
    "box",
    "with",
    "seven",
    "pens",
    "is",
    "how",
    "many",
    "apples",
    "does",
    "she",
    "buy",
    "each",
    "day",
    "if",
    "half",
    "are",
    "left",
    "and",
    "twice",
    "more",
]


def read_texts(data: Path | None, count: int = 7473) -> list[str]:
    """GSM8K's rows as one text each; made-up sums of the same length where no file is given.

    Args:
        data: JSONL with `question` and `answer`.
        count: Rows to make up.
    """
    rows = _make_rows(count) if data is None else map(json.loads, data.read_text(encoding="utf-8").splitlines())
    return [f"user: {row['question']}<|eot_id|>assistant: {row['answer']}<|eot_id|>" for row in rows]


def _make_rows(count: int) -> Iterator[dict[str, str]]:
    rng = random.Random(0)
    for _ in range(count):
        words = rng.choices(_WORDS, k=rng.randint(25, 120))
        yield {"question": " ".join(words), "answer": " ".join(rng.choices(_WORDS, k=rng.randint(25, 130)))}


def make_random_base(folder: Path, shape: str, texts: list[str]) -> Path:
    """Write config, bf16 safetensors and a byte-level BPE tokenizer trained on the texts."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    _make_tokenizer(texts).save_pretrained(folder)
    fields = {"tie_word_embeddings": False} | SHAPES[shape] | {"max_position_embeddings": 8192}
    config = LlamaConfig(bos_token_id=0, eos_token_id=1, pad_token_id=2, dtype="bfloat16", **fields)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder, max_shard_size="4GB")
    return folder


def make_base_apart(folder: Path, shape: str, data: Path | None) -> Path:
    """The same in a process of its own, in which Unsloth is not imported."""
    arguments = [sys.executable, "-m", "benchmarks.random_base", str(folder), shape, *([str(data)] if data else [])]
    subprocess.run(arguments, check=True)
    return folder


def _make_tokenizer(texts: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=16000,
        special_tokens=["<|begin_of_text|>", "<|eot_id|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|pad|>",
        model_max_length=131072,
    )
    fast.chat_template = _TEMPLATE
    return fast


if __name__ == "__main__":
    make_random_base(Path(sys.argv[1]), sys.argv[2], read_texts(Path(sys.argv[3]) if len(sys.argv) > 3 else None))
