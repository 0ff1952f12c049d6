"""What the pipeline is compared with: the guide's own script (Unsloth) and plain TRL + PEFT, with the guide's settings.

    python -m benchmarks.training_baselines guide --base FOLDER --data gsm8k/train.jsonl     # one JSON object on stdout

Each in a process of its own. Real tokens are counted: padding is left out. Steps before `--warm-up` are not counted.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks.apart import report
from benchmarks.random_base import read_texts

ROWS, ACCUMULATION, MAX_TOKENS, RANK = 2, 4, 2048, 16
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Measured:
    """Speed and memory of one training.

    Attributes:
        tokens_per_second: Real tokens, over the counted steps.
        peak_reserved_gib: Most that torch's allocator has held.
    """

    name: str
    device: str
    tokens_per_second: float
    seconds_per_step: float
    tokens_per_step: float
    peak_reserved_gib: float
    counted_steps: int
    load_seconds: float


@dataclass
class _Meter:
    """Counts tokens from the first counted step on."""

    pad_id: int
    first_micro_batch: int
    micro_batches: int = 0
    tokens: int = 0
    started: float = field(default=0.0)

    def wrap(self, training_step: Callable[..., Any]) -> Callable[..., Any]:
        """The trainer's own step, counted."""

        def step(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            import torch

            if self.micro_batches == self.first_micro_batch:
                torch.cuda.synchronize()
                self.started, self.tokens = time.perf_counter(), 0
            self.tokens += int((inputs["input_ids"] != self.pad_id).sum())
            self.micro_batches += 1
            return training_step(model, inputs, *args, **kwargs)

        return step


def load_guide(base: Path) -> tuple[Any, Any]:
    """The guide's script: Unsloth's defaults, but that its generated code stays out of the checkout."""
    os.environ["UNSLOTH_COMPILE_LOCATION"] = str(Path(tempfile.gettempdir(), "unsloth_compiled_cache"))
    import torch
    from unsloth import FastLanguageModel

    model, tokenizer = FastLanguageModel.from_pretrained(
        str(base), max_seq_length=MAX_TOKENS, load_in_4bit=True, dtype=torch.bfloat16
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=RANK,
        target_modules=MODULES,
        lora_alpha=RANK,
        lora_dropout=0,
        bias="none",
        use_gradient_checkpointing="unsloth",
    )
    return model, tokenizer


def load_plain(base: Path) -> tuple[Any, Any]:
    """Transformers, bitsandbytes and PEFT as their own pages show it."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
    )
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.bfloat16, device_map={"": 0}, attn_implementation="sdpa", quantization_config=quantization
    )
    model = prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs={"use_reentrant": False})
    lora = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=MODULES, task_type="CAUSAL_LM")
    return get_peft_model(model, lora), AutoTokenizer.from_pretrained(base)


LOADERS = {"guide": load_guide, "plain": load_plain}


def measure(name: str, base: Path, texts: list[str], steps: int, warm_up: int) -> Measured:
    """Train some steps and measure those after the warm-up."""
    started = time.perf_counter()
    model, tokenizer = LOADERS[name](base)
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    load_seconds = time.perf_counter() - started
    is_plain = name == "plain"
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=ROWS,
            gradient_accumulation_steps=ACCUMULATION,
            max_steps=steps,
            learning_rate=2e-4,
            logging_steps=1,
            bf16=True,
            max_length=MAX_TOKENS,
            dataset_text_field="text",
            report_to="none",
            save_strategy="no",
            optim="adamw_8bit",
            seed=0,
            disable_tqdm=True,
            gradient_checkpointing=is_plain,
            gradient_checkpointing_kwargs={"use_reentrant": False} if is_plain else None,
        )
        rows = Dataset.from_dict({"text": texts})
        trainer = SFTTrainer(model=model, processing_class=tokenizer, train_dataset=rows, args=config)
        meter = _Meter(tokenizer.pad_token_id, warm_up * ACCUMULATION)
        trainer.training_step = meter.wrap(trainer.training_step)
        trainer.train()
    torch.cuda.synchronize()
    seconds, counted = time.perf_counter() - meter.started, steps - warm_up
    return Measured(
        name=name,
        device=torch.cuda.get_device_name(),
        tokens_per_second=meter.tokens / seconds,
        seconds_per_step=seconds / counted,
        tokens_per_step=meter.tokens / counted,
        peak_reserved_gib=torch.cuda.max_memory_reserved() / 2**30,
        counted_steps=counted,
        load_seconds=load_seconds,
    )


def fill_rows(texts: list[str], count: int) -> list[str]:
    """Rows that are longer than the longest that is trained on, made of whole texts."""
    return ["".join(texts[index * 24 % max(1, len(texts) - 24) :][:24]) for index in range(count)]


@click.command()
@click.argument("name", type=click.Choice(sorted(LOADERS)))
@click.option("--base", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="JSONL; else rows are made up.")
@click.option("--full", is_flag=True, help="Rows of 2,048 tokens.")
@click.option("--steps", default=14)
@click.option("--warm-up", default=6)
def main(name: str, base: Path, data: Path | None, full: bool, steps: int, warm_up: int) -> None:
    """Measure one baseline."""
    texts = read_texts(data)
    if full:
        texts = fill_rows(texts, ROWS * ACCUMULATION * (steps + 2))
    report(asdict(measure(name, base, texts, steps, warm_up)))


if __name__ == "__main__":
    main()
