"""A GGUF of random weights in the shape of a known model: good for speed, not for answers.

Blocks of Q4_K and Q6_K are random bytes under fixed scales, so that eight billion weights take seconds and no 16-bit
model is needed. The vocabulary and the chat template are the embedded demo base's, filled up to the shape's size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.random_base import SHAPES as KNOWN

# The demo base's sizes: rows of K-quants are multiples of 256.
_TINY = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 8}
SHAPES: dict[str, Mapping[str, Any]] = {
    "tiny": {**_TINY, "num_key_value_heads": 4, "vocab_size": 4096},
    "1b": KNOWN["1b"],
    "8b": KNOWN["8b"],
}
_BASE = Path(__file__).parent.parent / "data" / "base_model"
_CONTEXT_TOKENS = 8192
# What weights are spread by, as at the start of a training.
_DEVIATION = 0.02
_BLOCK = 256
# Bytes of a block, and where its random ones are (ggml/src/ggml-common.h, block_q4_K and block_q6_K).
_BLOCK_BYTES = {"Q4_K": 144, "Q6_K": 210}
_QUANTS = {"Q4_K": slice(16, 144), "Q6_K": slice(0, 192)}


@dataclass(frozen=True)
class _Matrix:
    name: str
    rows: int
    columns: int
    kind: str


def write_random_gguf(path: Path, shape: str, seed: int = 0) -> Path:
    """Write a Llama of the shape with types as in llama.cpp's Q4_K_M.

    Args:
        path: The file to write.
        shape: One of `SHAPES`.
        seed: Of the random bytes.
    """
    from gguf import GGMLQuantizationType, GGUFWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "llama")
    _add_metadata(writer, shape)
    _add_vocabulary(writer, SHAPES[shape]["vocab_size"])
    matrices, norms = list(_list_matrices(SHAPES[shape])), list(_list_norms(SHAPES[shape]))
    width = SHAPES[shape]["hidden_size"]
    for matrix in matrices:
        dims = [matrix.rows, matrix.columns // _BLOCK * _BLOCK_BYTES[matrix.kind]]
        writer.add_tensor_info(
            matrix.name, dims, np.dtype(np.uint8), dims[0] * dims[1], GGMLQuantizationType[matrix.kind]
        )
    for name in norms:
        writer.add_tensor_info(name, [width], np.dtype(np.float32), 4 * width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    generator = np.random.default_rng(seed)
    for matrix in matrices:
        writer.write_tensor_data(_make_blocks(matrix, generator))
    for _ in norms:
        writer.write_tensor_data(np.ones(width, np.float32))
    writer.close()
    return path


def _add_metadata(writer: Any, shape: str) -> None:
    fields = SHAPES[shape]
    heads = fields["num_attention_heads"]
    writer.add_name(f"random {shape}")
    writer.add_block_count(fields["num_hidden_layers"])
    writer.add_context_length(_CONTEXT_TOKENS)
    writer.add_embedding_length(fields["hidden_size"])
    writer.add_feed_forward_length(fields["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(fields.get("num_key_value_heads", heads))
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(15)  # LLAMA_FTYPE_MOSTLY_Q4_K_M of include/llama.h


def _add_vocabulary(writer: Any, size: int) -> None:
    """The base's tokens at their ids, then fillers that no text contains."""
    from gguf import TokenType

    tokenizer = json.loads((_BASE / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    control = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    kinds = [
        TokenType.CONTROL
        if token in control
        else TokenType.BYTE
        if token.startswith("<0x") and token.endswith(">")
        else TokenType.NORMAL
        for token in tokens
    ]
    config = json.loads((_BASE / "config.json").read_text(encoding="utf-8"))
    fillers = size - len(tokens)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens + [f"<filler {number}>" for number in range(fillers)])
    # An earlier merge has the lower id.
    writer.add_token_scores([-float(number) for number in range(size)])
    writer.add_token_types(kinds + [TokenType.UNUSED] * fillers)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_unk_token_id(control["<unk>"])
    writer.add_chat_template((_BASE / "chat_template.jinja").read_text(encoding="utf-8"))


def _list_matrices(fields: Mapping[str, Any]) -> Iterator[_Matrix]:
    width, inner, layers = fields["hidden_size"], fields["intermediate_size"], fields["num_hidden_layers"]
    heads = fields["num_attention_heads"]
    narrow = width * fields.get("num_key_value_heads", heads) // heads
    yield _Matrix("token_embd.weight", fields["vocab_size"], width, "Q4_K")
    yield _Matrix("output.weight", fields["vocab_size"], width, "Q6_K")
    for layer in range(layers):
        # use_more_bits of src/llama-quant.cpp
        eighth = layers // 8
        more = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
        kind = "Q6_K" if more else "Q4_K"
        name = f"blk.{layer}"
        yield _Matrix(f"{name}.attn_q.weight", width, width, "Q4_K")
        yield _Matrix(f"{name}.attn_k.weight", narrow, width, "Q4_K")
        yield _Matrix(f"{name}.attn_v.weight", narrow, width, kind)
        yield _Matrix(f"{name}.attn_output.weight", width, width, "Q4_K")
        yield _Matrix(f"{name}.ffn_gate.weight", inner, width, "Q4_K")
        yield _Matrix(f"{name}.ffn_up.weight", inner, width, "Q4_K")
        yield _Matrix(f"{name}.ffn_down.weight", width, inner, kind)


def _list_norms(fields: Mapping[str, Any]) -> Iterator[str]:
    yield "output_norm.weight"
    for layer in range(fields["num_hidden_layers"]):
        yield f"blk.{layer}.attn_norm.weight"
        yield f"blk.{layer}.ffn_norm.weight"


def _make_blocks(matrix: _Matrix, generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Random quants under one scale, of mean zero or nearly so."""
    blocks = np.empty((matrix.rows * matrix.columns // _BLOCK, _BLOCK_BYTES[matrix.kind]), np.uint8)
    quants = blocks[:, _QUANTS[matrix.kind]]
    quants[:] = np.frombuffer(generator.bytes(quants.size), np.uint8).reshape(quants.shape)
    if matrix.kind == "Q4_K":
        # weight = d * 32 * quant - dmin * 32, quant 0 to 15; the twelve bytes hold eight scales and eight minima of 32.
        step = _DEVIATION / np.sqrt((16**2 - 1) / 12)
        blocks[:, 0:4] = np.array([step / 32, step * 7.5 / 32], np.float16).view(np.uint8)
        blocks[:, 4:16] = np.array([0xA0] * 8 + [0] * 4, np.uint8)
    else:
        # weight = d * 1 * (quant - 32), quant 0 to 63
        step = _DEVIATION / np.sqrt((64**2 - 1) / 12)
        blocks[:, 192:208] = 1
        blocks[:, 208:210] = np.array([step], np.float16).view(np.uint8)
    return blocks.reshape(matrix.rows, -1)
