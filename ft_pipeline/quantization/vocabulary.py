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

_PLACEHOLDER = -1000.0


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
    from gguf import GGUFReader

    reader = GGUFReader(gguf_file, "r+")
    scores = reader.fields.get("tokenizer.ggml.scores")
    if scores is None or any(float(scores.parts[i][0]) != _PLACEHOLDER for i in scores.data):
        return False
    _write_scores(scores, tokenizer)
    _write_types(reader.fields["tokenizer.ggml.token_type"], tokenizer)
    reader.data.flush()
    return True


def _write_scores(scores: Any, tokenizer: dict[str, Any]) -> None:
    # llama.cpp joins the pair with the highest score first; BPE the one that was learned first.
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(tokenizer["model"]["merges"]):
        left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
        ranks.setdefault(left + right, rank)
    for token, index in tokenizer["model"]["vocab"].items():
        if token in ranks:
            scores.parts[scores.data[index]][0] = -float(ranks[token])


def _write_types(types: Any, tokenizer: dict[str, Any]) -> None:
    from gguf import TokenType

    for token in tokenizer["added_tokens"]:
        kind = types.parts[types.data[token["id"]]]
        if kind[0] == TokenType.NORMAL:
            kind[0] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
