"""Tokenizers of known families, each of its kind and trained on a few lines, with the family's chat template."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ft_pipeline_tests.tiny_model import make_tokenizer

_CORPUS = [
    "system user assistant model tool [INST] [/INST] tool_call name arguments get_weather city Paris",
    "You are a helpful assistant.\n\nBe brief.\n",
    "What is the weather in Paris?\n\n  It is sunny.  ",
    '{"name": "get_weather", "arguments": {"city": "Paris"}}\n',
    "  \n\n \n x  \n\n\nIt's 12 345 degrees, ça va? naïve café 日本語 🙂\t.",
    "the weather is sunny again and again in 2 of 3 cities",
]
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_SPLIT = _LLAMA3_SPLIT.replace("{1,3}", "")
# Mistral 7B Instruct v0.3, less its checks: tools stand before the last user's words, and the system message too, but
# only while no answer follows.
_MISTRAL = """{{- bos_token }}
{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}
{%- else %}{% set turns = messages %}{% endif %}
{%- set asked = turns | selectattr('role', 'equalto', 'user') | list %}
{%- for m in turns %}
    {%- if m.role == 'user' %}
        {%- if tools and m == asked[-1] %}
            {{- '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {%- if loop.last and system is defined %}{{- '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}
        {%- else %}{{- '[INST] ' + m.content + '[/INST]' }}{% endif %}
    {%- elif m.tool_calls is defined %}{{- '[TOOL_CALLS] ' + (m.tool_calls | tojson) + eos_token }}
    {%- elif m.role == 'assistant' %}{{- ' ' + m.content | trim + eos_token }}
    {%- else %}{{- '[TOOL_RESULTS] ' + m.content + '[/TOOL_RESULTS]' }}{% endif %}
{%- endfor %}"""
_CONTROLS = ["[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"]
_MISTRAL_TOKENS = ["<unk>", "<s>", "</s>", *_CONTROLS, "[/TOOL_RESULTS]"]
_QWEN_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_PHI3_TOKENS = ["<unk>", "<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
_LLAMA3_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
NAMES = (
    "chatml",
    "llama3",
    "qwen2.5",
    "qwen3",
    "mistral",
    "mistral-metaspace",
    "mistral-normalized",
    "mistral-unknown",
    "gemma",
    "phi3",
)


def make_family(name: str, folder: Path) -> Path:
    """The tokenizer and the template of a family."""
    if name == "chatml":
        make_tokenizer(folder)
    elif name == "llama3":
        tokenizer = _train_byte_level(_LLAMA3_SPLIT, _LLAMA3_TOKENS)
        _add_bos(tokenizer, "<|begin_of_text|>")
        _save(tokenizer, folder, _of_trl("llama3"), bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
    elif name.startswith("qwen"):
        tokenizer = _train_byte_level(_QWEN_SPLIT, _QWEN_TOKENS, composes=True)
        # Added, and no special tokens: an answer may hold them.
        tokenizer.add_tokens(_plain("<tool_call>", "</tool_call>", "<think>", "</think>"))
        _save(tokenizer, folder, _of_trl(name.replace(".", "_")), eos_token="<|im_end|>", pad_token="<|endoftext|>")
    elif name.startswith("mistral"):
        tokenizer = _train_sentencepiece(_MISTRAL_TOKENS, name.removeprefix("mistral"))
        _add_bos(tokenizer, "<s>")
        _save(tokenizer, folder, _MISTRAL, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    elif name == "gemma":
        tokenizer = _train_sentencepiece(["<unk>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], "-unprefixed")
        # Runs of line breaks are added tokens of Gemma, and no special ones.
        tokenizer.add_tokens(_plain("\n", "\n\n", "\n\n\n"))
        _add_bos(tokenizer, "<bos>")
        _save(tokenizer, folder, _of_trl("gemma"), bos_token="<bos>", eos_token="<eos>", unk_token="<unk>")
    else:
        tokenizer = _train_sentencepiece(_PHI3_TOKENS, "-rstrip")
        _save(tokenizer, folder, _of_trl("phi3"), bos_token="<s>", eos_token="<|endoftext|>", unk_token="<unk>")
    return folder


def _train_byte_level(split: str, special: list[str], *, composes: bool = False) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    if composes:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        _CORPUS * 9,
        trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return tokenizer


def _train_sentencepiece(special: list[str], kind: str) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=kind != "-unknown", unk_token="<unk>", fuse_unk=True))
    blanks = normalizers.Replace(" ", "▁")
    if kind == "-metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    elif kind == "-normalized":
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), blanks])
    elif kind == "-unprefixed":
        tokenizer.normalizer = blanks
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), blanks])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [
        AddedToken(text, special=True, normalized=kind == "-normalized", rstrip=kind == "-rstrip") for text in special
    ]
    trainer = trainers.BpeTrainer(vocab_size=620, special_tokens=[*tokens, *bytes_], show_progress=False)
    # SentencePiece learns no piece across a line break. Without bytes to fall back to, what is not ASCII is unknown.
    lines = [line for text in _CORPUS for line in text.split("\n") if kind != "-unknown" or line.isascii()]
    tokenizer.train_from_iterator(lines * 9, trainer)
    spec = json.loads(tokenizer.to_str())
    # The trainer makes the bytes special tokens, which would be read in a text that spells them.
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in bytes_]
    return Tokenizer.from_str(json.dumps(spec))


def _plain(*contents: str) -> list[Any]:
    from tokenizers import AddedToken

    return [AddedToken(content, special=False, normalized=False) for content in contents]


def _add_bos(tokenizer: Any, bos: str) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )


def _of_trl(name: str) -> str:
    """A family's own template, of which TRL keeps a copy."""
    spec = find_spec("trl")
    assert spec
    assert spec.origin
    return (Path(spec.origin).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def _save(tokenizer: Any, folder: Path, template: str, **tokens: str) -> None:
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)
    fast.chat_template = template
    fast.save_pretrained(folder)
