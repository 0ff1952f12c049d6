"""Unsloth's 4-bit base, a LoRA on it, and TRL's SFTTrainer on the tokenized rows: the same code on a CPU and a GPU."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_pipeline.errors import TrainingError
from ft_pipeline.finetuning.device import Device
from ft_pipeline.finetuning.planner import BatchPlan
from ft_pipeline.finetuning.progress import make_progress_callback
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.recipe import TrainingSection

_LOGGED_STEPS = 50
# The library's `constant` knows no warm-up.
_SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


@dataclass(frozen=True)
class Job:
    """One training: what, on which rows, and how on this device.

    Attributes:
        rows: Parquet with `input_ids` and `labels`, lists of one length in each row.
        epoch_tokens: Tokens of all rows, padding left out.
        scratch: Folder for what is not kept.
    """

    base: Path
    rows: Path
    settings: TrainingSection
    device: Device
    batch: BatchPlan
    row_count: int
    epoch_tokens: int
    max_row_tokens: int
    scratch: Path

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        rows_a_step = self.batch.micro_batch_rows * self.batch.accumulation_steps
        return math.ceil(math.ceil(self.row_count / rows_a_step) * self.settings.epochs)


def prepare_environment(job: Job) -> None:
    """Set what the libraries read from the environment when they are imported."""
    os.environ["CUDA_VISIBLE_DEVICES"] = job.device.name if job.device.is_gpu else ""
    os.environ["UNSLOTH_COMPILE_LOCATION"] = str(job.scratch / "unsloth")
    os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if not job.device.is_gpu:
        # With Triton installed the first CPU step would compile for about a minute and gain nothing.
        os.environ["TORCHDYNAMO_DISABLE"] = "1"


def load_model(job: Job) -> tuple[Any, Any]:
    """The base with a fresh adapter, and its tokenizer.

    Raises:
        TrainingError: a target module is not in the model; the message lists what is.
    """
    import torch
    from unsloth import FastLanguageModel  # first: it patches transformers, TRL and PEFT

    settings, lora = job.settings, job.settings.lora
    model, tokenizer = FastLanguageModel.from_pretrained(
        str(job.base),
        max_seq_length=job.max_row_tokens,
        load_in_4bit=settings.load_in_4bit,
        # Few CPUs multiply bf16 in hardware; on the others it is some thirty times slower than fp32.
        dtype=None if job.device.is_gpu else torch.float32,
        trust_remote_code=False,
        use_safetensors=True,
    )
    _require_modules(model, lora.target_modules)
    model = FastLanguageModel.get_peft_model(
        model,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        use_gradient_checkpointing="unsloth" if job.device.is_gpu else False,
        random_state=settings.seed,
    )
    return model, tokenizer


def make_trainer(job: Job, model: Any, tokenizer: Any, reporter: Reporter) -> Any:
    """TRL's trainer on rows that are tokenized and masked already."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    settings = job.settings
    rows = Dataset.from_parquet(str(job.rows), columns=["input_ids", "labels"], cache_dir=str(job.scratch / "datasets"))
    bf16 = job.device.is_gpu and torch.cuda.is_bf16_supported()
    config = SFTConfig(
        output_dir=str(job.scratch / "trainer"),
        per_device_train_batch_size=job.batch.micro_batch_rows,
        gradient_accumulation_steps=job.batch.accumulation_steps,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=_SCHEDULERS[settings.lr_scheduler],
        warmup_steps=round(settings.warmup_share * job.steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim=settings.optimizer,
        seed=settings.seed,
        bf16=bf16,
        fp16=job.device.is_gpu and not bf16,
        dataset_kwargs={"skip_prepare_dataset": True},
        # TRL's default is to compute every layer twice; on the CPU memory is not what is short.
        gradient_checkpointing=job.device.is_gpu,
        train_sampling_strategy="group_by_length",  # rows of a batch are padded to the longest of them
        logging_steps=max(1, job.steps // _LOGGED_STEPS),
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
    )
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=rows,
        args=config,
        callbacks=[make_progress_callback(reporter, job.epoch_tokens * settings.epochs)],
    )
    if not job.device.is_gpu:
        # TRL casts the adapters of a 4-bit model to bf16, which most CPUs multiply fifty times slower than fp32.
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return trainer


def _require_modules(model: Any, wanted: tuple[str, ...]) -> None:
    import torch

    linear = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    if missing := sorted(set(wanted) - linear):
        raise TrainingError(
            f"training.lora.target_modules must be linear layers of the model; {', '.join(missing)} are not. "
            f"It has: {', '.join(sorted(linear))}."
        )
