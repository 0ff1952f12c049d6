"""GGUF files of a tiny Llama, written without torch: random weights, or a script of what to say.

The vocabulary is SentencePiece-like: four control tokens, the 256 bytes, and a few words.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

BOS, END_OF_TURN = 1, 4
CHATML = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CONTROL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
_WORDS = ("▁", "user", "assistant", "sky", "blue", "▁the", "▁is", "▁what", "▁colour", "ok")
TOKENS = ("<unk>", *_CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), *_WORDS)
CONTEXT_TOKENS = 256
# A multiple of the head count, and wide enough for a one-hot embedding of every token.
_WIDTH, _HEADS = 288, 4

# Wide at both ends and narrow between: no two tokens are near a tie, and the attention still has its say.
_SPREADS = {"token_embd.weight": 1.0, "output.weight": 0.5}

Tensors = dict[str, npt.NDArray[np.float32]]
# What the fixture `saying` gives.
Say = Callable[..., Path]


def byte_token(byte: int) -> int:
    """Id of the token of one raw byte."""
    return TOKENS.index(f"<0x{byte:02X}>")


def make_random_weights(seed: int, layers: int = 2) -> Tensors:
    """Weights that make an erratic model, whose every logit depends on the whole context."""
    generator = np.random.default_rng(seed)
    return {
        name: np.ones(shape, np.float32)
        if len(shape) == 1
        else generator.normal(0, _SPREADS.get(name, 0.05), shape).astype(np.float32)
        for name, shape in _shapes(layers).items()
    }


def make_scripted_weights(script: bytes, *, stops: bool = True, start: int | None = None) -> Tensors:
    """Weights that make a model say `script` after a prompt that ends in a line break, whatever else the prompt says.

    The blocks add nothing, so that the next token depends on the present one alone: no byte may stand twice in the
    script, and none may be a line break. At its end the model ends its turn, or says the script's last byte for ever.
    """
    weights = {name: np.zeros(shape, np.float32) for name, shape in _shapes(layers=1).items()}
    for name in weights:
        if name.endswith("norm.weight"):
            weights[name] += 1
    weights["token_embd.weight"][:, : len(TOKENS)] = np.eye(len(TOKENS))
    path = [byte_token(ord("\n")) if start is None else start, *(byte_token(byte) for byte in script)]
    path.append(END_OF_TURN if stops else path[-1])
    for present, following in itertools.pairwise(path):
        weights["output.weight"][following, present] = 1
    return weights


def _shapes(layers: int) -> Mapping[str, tuple[int, ...]]:
    square = (_WIDTH, _WIDTH)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(TOKENS), _WIDTH)}
    for layer in range(layers):
        block = f"blk.{layer}"
        shapes |= {f"{block}.{name}.weight": square for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        shapes |= {f"{block}.{name}.weight": square for name in ("ffn_gate", "ffn_up", "ffn_down")}
        shapes |= {f"{block}.{name}.weight": (_WIDTH,) for name in ("attn_norm", "ffn_norm")}
    return {**shapes, "output_norm.weight": (_WIDTH,), "output.weight": (len(TOKENS), _WIDTH)}


def write_gguf(path: Path, weights: Tensors, *, template: str | None = CHATML, add_bos: bool = True) -> Path:
    """A GGUF that llama.cpp loads; 32-bit weights."""
    writer: Any = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(sum(name.endswith("attn_q.weight") for name in weights))
    writer.add_feed_forward_length(_WIDTH)
    writer.add_head_count(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    add_vocabulary(writer, add_bos)
    if template is not None:
        writer.add_chat_template(template)
    write_tensors(writer, weights)
    return path


def write_tensors(writer: Any, weights: Tensors) -> None:
    """The rest of a file whose metadata are there."""
    for name, tensor in weights.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer: Any, add_bos: bool = True) -> None:
    """The SentencePiece-like one."""
    kinds: Sequence[gguf.TokenType] = [_kind(token) for token in TOKENS]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    # Longer words win, as in a trained vocabulary.
    writer.add_token_scores([float(len(token)) if token in _WORDS else 0.0 for token in TOKENS])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(END_OF_TURN)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(add_bos)
    writer.add_add_space_prefix(False)


def _kind(token: str) -> gguf.TokenType:
    if token == "<unk>":
        return gguf.TokenType.UNKNOWN
    if token in _CONTROL:
        return gguf.TokenType.CONTROL
    return gguf.TokenType.BYTE if token.startswith("<0x") else gguf.TokenType.NORMAL
