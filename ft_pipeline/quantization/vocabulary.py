"""Mends the two places that llama.cpp's converter leaves open for BPE tokenizers with byte fallback.

`LlamaHfVocab` in llama.cpp's gguf-py/gguf/vocab.py, which reads such a tokenizer from tokenizer.json when there is no
tokenizer.model, gives every token the score -1000 ("placeholder for actual logic") and calls a special token normal
unless it has a role (bos, eos, ...). llama.cpp's tokenizer then joins pieces from left to right instead of by rank, and
spells out tokens such as <|im_start|>: other ids than in training, and no error anywhere.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ft_pipeline.quantization.gguf_header import find_arrays

_PLACEHOLDER = -1000.0
_SCORES, _TYPES = "tokenizer.ggml.scores", "tokenizer.ggml.token_type"


def repair_vocabulary(gguf_file: Path, model: Path) -> bool:
    """Write the merge ranks and the types of the added tokens into a fresh GGUF, in place.

    Args:
        gguf_file: What the converter wrote.
        model: The folder that it was made from.

    Returns:
        Whether there was something to mend.
    """
    path = model / "tokenizer.json"
    if (model / "tokenizer.model").is_file() or not path.is_file():
        return False
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    if tokenizer["model"].get("type") != "BPE" or not tokenizer["model"].get("byte_fallback"):
        return False
    arrays = find_arrays(gguf_file, (_SCORES, _TYPES))
    if arrays.keys() != {_SCORES, _TYPES}:
        return False
    import numpy as np

    scores = np.memmap(gguf_file, np.float32, "r+", *arrays[_SCORES])
    if (scores != _PLACEHOLDER).any():
        return False
    _write_scores(scores, tokenizer)
    types = np.memmap(gguf_file, np.int32, "r+", *arrays[_TYPES])
    _write_types(types, tokenizer)
    scores.flush()
    types.flush()
    return True


def _write_scores(scores: Any, tokenizer: dict[str, Any]) -> None:
    # llama.cpp joins the pair with the highest score first; BPE the one that was learned first.
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(tokenizer["model"]["merges"]):
        left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
        ranks.setdefault(left + right, rank)
    for token, index in tokenizer["model"]["vocab"].items():
        if token in ranks:
            scores[index] = -float(ranks[token])


def _write_types(types: Any, tokenizer: dict[str, Any]) -> None:
    from gguf import TokenType

    for token in tokenizer["added_tokens"]:
        if types[token["id"]] == TokenType.NORMAL:
            types[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
