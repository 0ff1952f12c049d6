"""How well a LoRA learns the demo task on a base model: exact match before and after, plain PyTorch, no Unsloth.

`python -m pretrain_base.measure_lora --base ../data/base_model` in `scripts/`. The figures that count come from the
pipeline itself; this one is for choosing settings in seconds on a GPU. 4-bit weights are imitated (NF4 in training,
blocks of 32 with scale and minimum after it).
"""

import argparse
import json
import logging
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from demo_tickets import phrases, phrases_unseen
from demo_tickets.tickets import clean_rows
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from pretrain_base.evaluate import answers

log = logging.getLogger("measure_lora")
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# The 16 values of NF4 (QLoRA, appendix E; bitsandbytes functional.py).
NF4 = (
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
)  # fmt: skip
Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Settings:
    """One LoRA run."""

    rank: int = 16
    alpha: int = 128
    learning_rate: float = 2e-3
    batch_rows: int = 8
    epochs: float = 0.75
    warmup_steps: int = 5
    seed: int = 0


def fake_nf4(w: torch.Tensor) -> torch.Tensor:
    """`w` after NF4 and back, blocks of 64."""
    blocks = w.float().reshape(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True)
    levels = torch.tensor(NF4, device=w.device)
    nearest = ((blocks / scale)[..., None] - levels).abs().argmin(-1)
    return (levels[nearest] * scale).reshape(w.shape).to(w.dtype)


def fake_q4_k(w: torch.Tensor) -> torch.Tensor:
    """`w` after 4 bits with scale and minimum, blocks of 32: nearly Q4_K."""
    blocks = w.float().reshape(-1, 32)
    low, top = blocks.amin(1, keepdim=True).clamp(max=0), blocks.amax(1, keepdim=True)
    step = (top - low).clamp(min=1e-8) / 15
    return (((blocks - low) / step).round().clamp(0, 15) * step + low).reshape(w.shape).to(w.dtype)


class LoraLinear(nn.Module):
    """A frozen linear layer with a low-rank update; it trains on the NF4 weight and merges into the 16-bit one."""

    def __init__(self, base: nn.Linear, rank: int, alpha: int) -> None:
        super().__init__()
        self.exact = base.weight.data.float()
        self.quantized = fake_nf4(self.exact)
        self.down = nn.Parameter(torch.empty(rank, base.in_features, device=base.weight.device))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.scale = alpha / rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` times the NF4 weight, plus the update."""
        update = functional.linear(functional.linear(x, self.down), self.up) * self.scale
        return functional.linear(x, self.quantized) + update

    def merged(self) -> torch.Tensor:
        """The 16-bit weight with the update."""
        return self.exact + self.up.data @ self.down.data * self.scale


def add_lora(model: LlamaForCausalLM, settings: Settings) -> list[tuple[nn.Module, str, LoraLinear]]:
    """Replace every target by its LoRA; returns where each one sits."""
    model.requires_grad_(False)
    places = []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if name in TARGETS and isinstance(child, nn.Linear):
                lora = LoraLinear(child, settings.rank, settings.alpha)
                setattr(parent, name, lora)
                places.append((parent, name, lora))
    return places


def merge(places: list[tuple[nn.Module, str, LoraLinear]]) -> None:
    """Plain linear layers again, in fp16 precision."""
    for parent, name, lora in places:
        weight = lora.merged().half().float()
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device)
        linear.weight.data.copy_(weight)
        setattr(parent, name, linear)


def batch_of(
    tokenizer: PreTrainedTokenizerFast, pairs: Pairs, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels, padded to the right; labels are -100 outside the answer. Shapes: (rows, tokens)."""
    rows, labels = [], []
    for prompt, answer in pairs:
        p = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        a = tokenizer(answer + "<|im_end|>", add_special_tokens=False)["input_ids"][1:]
        rows.append(torch.tensor(p + a))
        labels.append(torch.tensor([-100] * len(p) + a))
    pad = nn.utils.rnn.pad_sequence
    ids = pad(rows, batch_first=True, padding_value=int(tokenizer.pad_token_id or 0))
    return ids.to(device), pad(labels, batch_first=True, padding_value=-100).to(device)


def fit(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: Pairs, settings: Settings) -> float:
    """Train the LoRA. Returns the mean loss of the last ten steps."""
    torch.manual_seed(settings.seed)
    places = add_lora(model, settings)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=settings.learning_rate, weight_decay=0.0
    )
    steps = math.ceil(len(pairs) * settings.epochs / settings.batch_rows)
    rng, queue, losses = random.Random(settings.seed), list[tuple[str, str]](), []
    for step in range(steps):
        if len(queue) < settings.batch_rows:
            queue = rng.sample(pairs, len(pairs))
        picked, queue = queue[: settings.batch_rows], queue[settings.batch_rows :]
        ids, labels = batch_of(tokenizer, picked, model.device)
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = settings.learning_rate * min(1.0, (step + 1) / settings.warmup_steps) * cosine
        with torch.autocast(model.device.type, torch.bfloat16):
            loss = model(input_ids=ids, labels=labels, attention_mask=(ids != tokenizer.pad_token_id).long()).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    merge(places)
    return sum(losses[-10:]) / len(losses[-10:])


def exact_match(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: Pairs) -> dict[str, float]:
    """Shares: whole answer, stop, and each key of the answer."""
    got = answers(model, tokenizer, [p for p, _ in pairs])
    scores = {"exact": 0.0, "stop": 0.0}
    for (text, stopped), (_, want) in zip(got, pairs, strict=True):
        scores["exact"] += text == want
        scores["stop"] += stopped
        try:
            record = json.loads(text)
        except json.JSONDecodeError:
            record = {}
        for key, value in json.loads(want).items():
            scores[key] = scores.get(key, 0.0) + (isinstance(record, dict) and record.get(key) == value)
    return {key: round(value / len(pairs), 3) for key, value in scores.items()}


def demo_pairs(tokenizer: PreTrainedTokenizerFast) -> tuple[Pairs, Pairs]:
    """Prompts and answers: clean tickets, and tickets in unseen phrasings."""
    out = []
    for n, module in ((2440, phrases), (200, phrases_unseen)):
        pairs = []
        for row in clean_rows(random.Random(n), n, module):
            turns = row["messages"]
            prompt = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
            pairs.append((str(prompt), turns[-1]["content"]))
        out.append(pairs)
    return out[0], out[1]


def quantize_all(model: LlamaForCausalLM) -> None:
    """Every target to four bits and back, for a look at what quantization costs."""
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in TARGETS and isinstance(module, nn.Linear):
            module.weight.data = fake_q4_k(module.weight.data)


def measure(base: Path, settings: Settings, device: str, four_bits: bool) -> None:
    """One run, from the base model to the scores."""
    tokenizer = AutoTokenizer.from_pretrained(str(base))
    model = LlamaForCausalLM.from_pretrained(str(base), dtype=torch.float32).to(device)
    seen, unseen = demo_pairs(tokenizer)
    random.Random(settings.seed).shuffle(seen)
    held_out, training = seen[:244], seen[244:]
    before = exact_match(model, tokenizer, held_out)["exact"] if four_bits else float("nan")
    begun = time.monotonic()
    loss = fit(model, tokenizer, training, settings)
    log.info("%s base exact %.3f loss %.4f %.0f s", settings, before, loss, time.monotonic() - begun)
    log.info("  held out  %s", exact_match(model, tokenizer, held_out))
    log.info("  unseen    %s", exact_match(model, tokenizer, unseen))
    if not four_bits:
        return
    quantize_all(model)
    log.info("  4 bits: held out %s unseen %s", exact_match(model, tokenizer, held_out)["exact"],
             exact_match(model, tokenizer, unseen)["exact"])  # fmt: skip


def main() -> None:
    """Read the settings of one or more runs."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--runs", default="{}", help='JSON objects of settings, e.g. [{"rank": 32}, {"epochs": 2}]')
    parser.add_argument("--four-bits", action="store_true", help="also the base's score, and the score after 4 bits")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    runs = json.loads(args.runs)
    for run in runs if isinstance(runs, list) else [runs]:
        measure(args.base, Settings(**run), args.device, args.four_bits)


if __name__ == "__main__":
    main()
