"""A Llama of some random parameters with a trained tokenizer: the real classes, in a second."""

from __future__ import annotations

import json
from pathlib import Path

CHATML = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CORPUS = ["user assistant system", "what is the colour of the sky", "the sky is blue", "say the word again 12 times"]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_HIDDEN = 256


def make_base(folder: Path, template: str | None = CHATML) -> Path:
    """A base model folder: config, bf16 safetensors, tokenizer, template."""
    return make_model(folder, make_tokenizer(folder, template), "bfloat16")


def make_tokenizer(folder: Path, template: str | None = CHATML) -> int:
    """A BPE with byte fallback in SentencePiece's manner, and with no tokenizer.model.

    It knows every pair that makes a token, as tokenizers converted from SentencePiece do: llama.cpp joins any of them.

    Returns:
        The size of the vocabulary.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL_TOKENS + _BYTES, show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    spec = json.loads(tokenizer.to_str())
    # The trainer makes the bytes special tokens, which would be read in a text that spells them.
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in SPECIAL_TOKENS]
    spec["model"]["merges"] = _all_merges(spec["model"]["vocab"])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        bos_token="<s>",
        eos_token="<|im_end|>",
        unk_token="<unk>",
        pad_token="</s>",
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    return len(fast)


def make_model(folder: Path, vocabulary_size: int, dtype: str = "float16") -> Path:
    """A one-layer Llama of random weights, whose rows are multiples of 256."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=_HIDDEN,
        intermediate_size=2 * _HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=4,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def _all_merges(vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for token in sorted(set(vocabulary) - set(SPECIAL_TOKENS) - set(_BYTES), key=vocabulary.__getitem__):
        pairs = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        merges += [pair for pair in pairs if all(part in vocabulary for part in pair)]
    return merges
