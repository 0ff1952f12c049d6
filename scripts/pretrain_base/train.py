"""The training loop: a small Llama on packed rows, answers weighted above prompts."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pretrain_base.shards import ROW_TOKENS, read_shard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how hard to train. `seconds` ends the run early; with `seconds` = 0 only `steps` counts."""

    layers: int = 5
    ffn: int = 768
    steps: int = 25_000
    seconds: float = 0.0
    batch_rows: int = 256
    learning_rate: float = 2e-3
    warmup_steps: int = 300
    prompt_weight: float = 0.25
    shards: int = 800
    steps_per_shard: int = 12
    first_shards: int = 4
    seed: int = 0


def build_model(tokenizer: PreTrainedTokenizerFast, plan: TrainingPlan) -> LlamaForCausalLM:
    """A fresh Llama; all row sizes are multiples of 256, as K-quants ask for."""
    torch.manual_seed(plan.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=plan.ffn,
            num_hidden_layers=plan.layers,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def token_weights(ids: torch.Tensor, start: int, assistant: int, prompt_weight: float) -> torch.Tensor:
    """1 for the tokens of assistant turns, `prompt_weight` for all others. `ids`: (rows, tokens)."""
    following = functional.pad(ids[:, 1:], (0, 1))
    turn = (ids == start).cumsum(1)
    answers = torch.zeros(ids.shape[0], ids.shape[1] + 1, device=ids.device)
    answers.scatter_add_(1, turn, ((ids == start) & (following == assistant)).float())
    return torch.where(answers.gather(1, turn) > 0, 1.0, prompt_weight)


def _loss_function(model: LlamaForCausalLM) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def loss(ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        each = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        w = weights[:, 1:].flatten()
        return (each * w).sum() / w.sum()

    return loss


def learning_rate(plan: TrainingPlan, step: int, progress: float) -> float:
    """Linear warm-up, then a cosine down to 2 %."""
    cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return plan.learning_rate * min(1.0, (step + 1) / plan.warmup_steps) * cosine


class ShardPool:
    """The rows seen so far: a new shard every `steps_per_shard` steps, whatever the speed, so that runs repeat."""

    def __init__(self, folder: Path, plan: TrainingPlan, device: str) -> None:
        self.folder, self.plan, self.device = folder, plan, device
        self.rows = torch.empty(0, ROW_TOKENS, dtype=torch.int16, device=device)
        self.count = 0
        self.random = torch.Generator(device=device).manual_seed(plan.seed + 1)

    def _grow(self, wanted: int) -> None:
        fresh = []
        while self.count < wanted:
            self.count += 1
            fresh.append(torch.from_numpy(read_shard(self.folder, self.count).astype("int16")).to(self.device))
        if fresh:
            self.rows = torch.cat([self.rows, *fresh])

    def batch(self, step: int) -> torch.Tensor:
        """`batch_rows` random rows of the shards that step `step` may see."""
        p = self.plan
        if step % p.steps_per_shard == 0:
            self._grow(min(p.shards, p.first_shards + step // p.steps_per_shard))
        picked = torch.randint(0, len(self.rows), (p.batch_rows,), device=self.device, generator=self.random)
        return self.rows[picked].long()


def train(tokenizer: PreTrainedTokenizerFast, shard_folder: Path, plan: TrainingPlan, device: str) -> LlamaForCausalLM:
    """The trained model in bf16."""
    model = build_model(tokenizer, plan).to(device)
    log.info("%.2f M parameters", sum(p.numel() for p in model.parameters()) / 1e6)
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    assistant = tokenizer.convert_tokens_to_ids("▁assistant")
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, weight_decay=0.05, betas=(0.9, 0.95))
    pool = ShardPool(shard_folder, plan, device)
    loss_of = torch.compile(_loss_function(model)) if device == "cuda" else _loss_function(model)
    begun = time.monotonic()
    for step in range(plan.steps):
        spent = time.monotonic() - begun
        progress = max(step / plan.steps, spent / plan.seconds if plan.seconds else 0.0)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(plan, step, progress)
        ids = pool.batch(step)
        weights = token_weights(ids, start, assistant, plan.prompt_weight)
        with torch.autocast(device, torch.bfloat16):
            loss = loss_of(ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 500 == 0:
            done = step * plan.batch_rows * ROW_TOKENS / 1e6
            log.info("step %d loss %.3f, %.0f s, %.0f M tokens, %d shards", step, loss.item(), spent, done, pool.count)
    log.info("%d steps in %.0f s", step + 1, time.monotonic() - begun)
    return model.eval().to(torch.bfloat16)
