"""A BPE tokenizer with byte fallback, in the manner of SentencePiece, so that llama.cpp reads it as a Llama vocabulary."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pretrain_base.corpus import document
from pretrain_base.lexicon import all_words, gerund, past, plural

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
BYTES = [f"<0x{b:02X}>" for b in range(256)]
# Digits and capitals of codes stay single, and a blank before them too: a code has the same tokens everywhere.
# JSON's own punctuation ('": "', '", "') becomes single tokens; words in small letters take the blank before them.
PIECES = r'\{"|":▁"?|",▁"|(?<=[0-9]),▁"|"\}|▁[a-z]+|[A-Z]?[a-z]+|[\s\S]'
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _texts(seed: int, documents: int) -> Iterator[str]:
    """Documents without special tokens and line breaks (a line break is the byte token <0x0A>)."""
    rng = random.Random(seed)
    for _ in range(documents):
        yield re.sub(r"<\|?[a-z_/]+\|?>|\n", " ", document(rng))
    for role in ("user", "assistant", "system"):
        yield f" {role}" * documents
    words = " ".join(f"{w} {past(w)} {gerund(w)} {plural(w)}" for w in all_words())
    for _ in range(documents // 500):
        yield words


def _all_merges(vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, in the sequence of the token made.

    llama.cpp joins any two neighbours whose join is a token (llm_tokenizer_spm in llama-vocab.cpp), whereas BPE joins
    only the pairs it was taught. With all pairs taught, both give the same ids.
    """
    merges = []
    for token in sorted(vocab, key=vocab.__getitem__):
        if token in SPECIAL or token in BYTES:
            continue
        splits = ((token[:i], token[i:]) for i in range(1, len(token)))
        merges += [(a, b) for a, b in splits if a in vocab and b in vocab]
    return merges


def train_tokenizer(vocab_size: int, seed: int, documents: int = 30_000) -> PreTrainedTokenizerFast:
    """The tokenizer of the generated text, with the chat template."""
    tok = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    tok.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    printable = [chr(c) for c in range(33, 127)] + ["▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL + BYTES, initial_alphabet=printable, show_progress=False
    )
    tok.train_from_iterator(_texts(seed, documents), trainer)
    spec = json.loads(tok.to_str())
    spec["pre_tokenizer"] = None
    spec["model"]["merges"] = _all_merges(spec["model"]["vocab"])
    special = [t for t in spec["added_tokens"] if t["content"] in SPECIAL]
    spec["added_tokens"] = special
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        bos_token="<s>",
        eos_token="<|im_end|>",
        unk_token="<unk>",
        pad_token="</s>",
        additional_special_tokens=["<|im_start|>"],
        model_max_length=1024,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save_tokenizer(folder: Path, vocab_size: int, seed: int) -> None:
    """Train and write it into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    train_tokenizer(vocab_size, seed).save_pretrained(str(folder))
