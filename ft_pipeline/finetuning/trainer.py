"""trained_adapter: holds the device, plans, trains, and says how it went.

It runs in a process of its own: the GPU's memory comes back when that ends, and the lease dies with it.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ft_pipeline.base_model import copy_tokenizer
from ft_pipeline.datasets.validated import read_row_lengths
from ft_pipeline.errors import TrainingError
from ft_pipeline.finetuning.device import Device, find_device
from ft_pipeline.finetuning.lease import hold_device
from ft_pipeline.finetuning.planner import plan_batch, predict_memory, require_memory
from ft_pipeline.finetuning.unsloth_backend import Job, load_model, make_trainer, prepare_environment
from ft_pipeline.plots import plot_loss, save_png
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.recipe import TrainingSection
from ft_pipeline.summary import Summary

HISTORY_FILE, LOSS_PLOT = "history.json", "loss.png"
_HISTORY_FIELDS = ("step", "loss", "learning_rate", "grad_norm")


class TrainRequest(BaseModel):
    """What the stage's process is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Path
    base_name: str
    rows: Path
    settings: TrainingSection
    device: str
    memory_limit_bytes: int | None
    lock_dir: Path
    wait_seconds: float
    holder: str
    out_dir: Path


def train_adapter(request: TrainRequest, reporter: Reporter) -> Summary:
    """Train a LoRA adapter while holding the device.

    Writes PEFT's `adapter_model.safetensors` and `adapter_config.json`, the tokenizer, `history.json` and `loss.png`.

    Raises:
        LeaseTimeout: the device was not free in time.
        MemoryBudgetError: it is too small.
        TrainingError: the loss is no number, or a target module is not in the model.
    """
    device = find_device(request.device)
    with hold_device(
        device.name,
        lock_dir=request.lock_dir,
        timeout_seconds=request.wait_seconds,
        holder=request.holder,
        tell=reporter.info,
    ):
        device = find_device(device.name)  # what is free now, not when waiting began
        with tempfile.TemporaryDirectory(prefix="ft_pipeline-") as scratch:
            return _train(_plan(request, device, Path(scratch), reporter), request, reporter)


def _plan(request: TrainRequest, device: Device, scratch: Path, reporter: Reporter) -> Job:
    lengths = read_row_lengths(request.rows)
    settings, longest = request.settings, max(lengths)
    batch = plan_batch(settings.effective_batch_tokens, sum(lengths) / len(lengths), longest)
    memory = predict_memory(request.base, settings, batch, longest, device)
    reporter.info(
        f"training on {device.label}: {batch.micro_batch_rows} rows x {batch.accumulation_steps} a step, "
        f"predicted peak {memory.describe()}"
    )
    require_memory(memory, device, request.memory_limit_bytes)
    return Job(
        base=request.base,
        rows=request.rows,
        settings=settings,
        device=device,
        batch=batch,
        row_count=len(lengths),
        epoch_tokens=sum(lengths),
        max_row_tokens=longest,
        scratch=scratch,
    )


def _train(job: Job, request: TrainRequest, reporter: Reporter) -> Summary:
    prepare_environment(job)
    model, tokenizer = load_model(job)
    trainer = make_trainer(job, model, tokenizer, reporter)
    started = time.perf_counter()
    outcome = trainer.train()
    wall_seconds = time.perf_counter() - started
    history = [
        {name: float(entry[name]) for name in _HISTORY_FIELDS if name in entry}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    if not math.isfinite(outcome.training_loss):
        raise TrainingError(
            f"the training loss must be a number, got {outcome.training_loss}. Lower training.learning_rate."
        )
    _save(request, model, history)
    trained_tokens = round(job.epoch_tokens * job.settings.epochs)
    return Summary(
        figures={
            "device": job.device.label,
            "steps": int(trainer.state.global_step),
            "final_loss": history[-1]["loss"],
            "mean_loss": float(outcome.training_loss),
            "train_seconds": round(wall_seconds, 1),
            "trained_tokens": trained_tokens,
            "tokens_per_second": round(trained_tokens / wall_seconds),
            "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            **asdict(job.batch),
        },
        plots={"training loss": LOSS_PLOT},
    )


def _save(request: TrainRequest, model: Any, history: list[dict[str, float]]) -> None:
    out_dir = request.out_dir
    model.save_pretrained(str(out_dir), safe_serialization=True)
    config_path = out_dir / "adapter_config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    # PEFT writes the folder that it loaded from; what identifies the base is the recipe's name for it.
    config["base_model_name_or_path"] = request.base_name
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    (out_dir / "README.md").unlink(missing_ok=True)
    copy_tokenizer(request.base, out_dir)
    (out_dir / HISTORY_FILE).write_text(json.dumps(history), encoding="utf-8")
    save_png(plot_loss(history), out_dir / LOSS_PLOT)
