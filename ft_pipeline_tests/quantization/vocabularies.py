"""Tokenizers of other families than the tiny model's, and a base's vocabulary as llama.cpp's converter writes it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from ft_pipeline.quantization.convert import Conversion, default_converter
from ft_pipeline_tests.tiny_model import CORPUS

# Of the kind of Mistral 7B's.
_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
# As Llama 2's: text is taken as it is, with a blank in front.
_SENTENCEPIECE: dict[str, Any] = {
    "vocab_size": 340,
    "hard_vocab_limit": False,
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": True,
}


def convert_vocabulary(model: Path, target: Path) -> Path:
    """Run llama.cpp's own converter for the vocabulary alone."""
    with Conversion(model, target, "demo", default_converter(), vocab_only=True) as conversion:
        conversion.wait()
    return target


def replace_template(vocabulary: Path, target: Path, template: str) -> Path:
    """The same vocabulary under another chat template: what the converter makes of a base that differs in it alone."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter
    from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata

    reader = GGUFReader(vocabulary)
    writer = GGUFWriter(target, str(reader.fields["general.architecture"].contents()), endianess=reader.endianess)
    changes = {"tokenizer.chat_template": MetadataDetails(GGUFValueType.STRING, template)}
    copy_with_new_metadata(reader, writer, changes, [])
    return target


def make_sentencepiece_base(folder: Path, kind: str, **tokenizer_config: Any) -> Path:
    """A base with a tokenizer.model of SentencePiece (bpe or unigram) and the tokenizer.json that goes with it."""
    import sentencepiece

    folder.mkdir()
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 20),
        model_writer=written,
        model_type=kind,
        minloglevel=2,
        **_SENTENCEPIECE,
    )
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    _save_fast(folder, _to_bpe(processor) if kind == "bpe" else _to_unigram(processor))
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": len(processor)}
    config |= {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1, "num_attention_heads": 4}
    config |= {"max_position_embeddings": 512, "rms_norm_eps": 1e-5}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | tokenizer_config), encoding="utf-8")
    return folder


def _to_bpe(processor: Any) -> Any:
    """As transformers does: all pairs that make a piece, by the piece's score."""
    from tokenizers import models

    vocabulary = {processor.id_to_piece(i): i for i in range(len(processor))}
    ordinary = [text for text, i in vocabulary.items() if not _is_special(processor, i)]
    merges = []
    for text in sorted(ordinary, key=lambda text: -processor.get_score(vocabulary[text])):
        pairs = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        merges += [pair for pair in pairs if all(part in vocabulary for part in pair)]
    return models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)


def _to_unigram(processor: Any) -> Any:
    from tokenizers import models

    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(len(processor))]
    return models.Unigram(pieces, 0, True)


def _is_special(processor: Any, token: int) -> bool:
    return bool(processor.is_unknown(token) or processor.is_control(token) or processor.is_byte(token))


def _save_fast(folder: Path, model: Any) -> None:
    from tokenizers import Tokenizer, normalizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=_TEMPLATE
    )
    fast.save_pretrained(folder)
