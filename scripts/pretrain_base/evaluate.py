"""Greedy answers, and how many are exactly right."""

import random
from collections import defaultdict
from collections.abc import Sequence

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pretrain_base.corpus import MIXTURE, as_chat


@torch.no_grad()
def answers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], max_new_tokens: int = 96
) -> list[tuple[str, bool]]:
    """For every prompt (special tokens in the text) the greedy answer and whether it ended by itself."""
    tokenizer.padding_side = "left"
    out: list[tuple[str, bool]] = []
    for i in range(0, len(prompts), 256):
        batch = tokenizer(list(prompts[i : i + 256]), return_tensors="pt", padding=True, add_special_tokens=False)
        batch = batch.to(model.device)
        made = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )[:, batch["input_ids"].shape[1] :]
        for row in made.tolist():
            stopped = tokenizer.eos_token_id in row
            text = tokenizer.decode(row[: row.index(tokenizer.eos_token_id)] if stopped else row)
            out.append((text.strip(), stopped))
    return out


def pretraining_scores(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, each: int = 64
) -> dict[str, float]:
    """Share of exact last answers on fresh documents, by task."""
    rng = random.Random(seed)
    prompts, expected, names = [], [], []
    for task in MIXTURE:
        for _ in range(each):
            system, turns = task(rng)
            prompts.append(as_chat(system, turns)[: -len(turns[-1][1] + "<|im_end|>")])
            expected.append(turns[-1][1].strip())
            names.append(task.__name__)
    right: dict[str, list[bool]] = defaultdict(list)
    for name, want, (got, _) in zip(names, expected, answers(model, tokenizer, prompts), strict=True):
        right[name].append(want == got)
    return {name: sum(r) / len(r) for name, r in right.items()}
