"""What quantizing gains from the importance matrix: the next token's distribution against that of the f16 file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.imatrix_training import HELD_OUT_ROWS, read_chats, tokenize
from ft_pipeline.quantization.quantize import quantize_gguf

TYPES = ("Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M", "IQ3_S", "Q2_K", "IQ2_M", "IQ2_XS")
Logits = list[npt.NDArray[np.float32]]


def read_logits(gguf_file: Path, rows: Sequence[Sequence[int]]) -> Logits:
    """float32 [tokens, vocabulary] of each row."""
    from llama_cpp import Llama

    # Threads that wait for each other cost more than they give in so small a model.
    threads = {"n_threads": 1, "n_threads_batch": 1}
    llama = Llama(str(gguf_file), n_ctx=512, logits_all=True, verbose=False, **threads)
    found = []
    for row in rows:
        llama.reset()
        llama.eval(list(row))
        found.append(llama.scores[: len(row)].copy())
    llama.close()
    return found


def compare_logits(wanted: Logits, found: Logits, prompts: list[int]) -> dict[str, float]:
    """Mean divergence in nats over all tokens and over the answers', and how often the first guess is the same."""
    divergences, answers, same = [], [], []
    for left, right, prompt in zip(wanted, found, prompts, strict=True):
        p, q = (values.astype(np.float64) for values in (left, right))
        p, q = (values - np.logaddexp.reduce(values, axis=1, keepdims=True) for values in (p, q))
        divergence = (np.exp(p) * (p - q)).sum(axis=1)
        divergences.append(divergence)
        answers.append(divergence[prompt - 1 : -1])
        same.append(left.argmax(axis=1) == right.argmax(axis=1))
    return {
        "kl": float(np.concatenate(divergences).mean()),
        "answer_kl": float(np.concatenate(answers).mean()),
        "same_top": float(np.concatenate(same).mean()),
    }


def measure_gain(f16: Path, values: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Each type with and without importance, against the f16 file."""
    rows, prompts = tokenize(read_chats()[-HELD_OUT_ROWS:])
    wanted = read_logits(f16, rows)
    found: list[dict[str, Any]] = []
    for name in TYPES:
        entry: dict[str, Any] = {"type": name}
        for kind, importance in (("without", None), ("with", values)):
            if name.startswith("IQ2") and importance is None:
                continue
            file = quantize_gguf(f16, folder / "made.gguf", name, importance=importance)
            figures = compare_logits(wanted, read_logits(file.path, rows), prompts)
            entry[kind] = figures | {"size_bytes": file.size_bytes}
        found.append(entry)
    return found
