"""Speed and learning of the training stage on a CPU, against a bare script of Unsloth and TRL on the same rows.

    python -m benchmarks.training_cpu              # writes results/training_cpu.{json,md}

Speed: the demo's recipe, in pairs one after the other; real tokens over the seconds of the training loop. The script
gets the micro-batches of the plan as a fixed number of rows, once in TRL's own random order and once grouped by length.
Learning: the guide's micro-batches (2 rows x 4) against the planned ones at as many tokens per update and in all; the
loss of the same held-out rows after. Once both in the pipeline's stage, so that the rows of an update are the same, and
over some seeds against the guide's script, which takes rows in another order.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import polars as pl

from benchmarks.apart import report, run_apart
from benchmarks.tables import RESULTS, write_results
from benchmarks.training_ours import train
from ft_pipeline.datasets.validated import EVALUATION_FILE, HELD_OUT, TRAIN_FILE, read_row_lengths
from ft_pipeline.pipeline import Pipeline
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.recipe import TrainingSection
from ft_pipeline.recipe_file import find_recipe, load_recipe
from ft_pipeline.run import Run

PROJECT = Path(__file__).parent.parent
_GUIDE_ROWS, _GUIDE_ACCUMULATION = 2, 4
# A whole training of the demo ends so near to a loss of 0 that ratios of it mean nothing.
_EPOCHS = 0.4


def prepare_rows(folder: Path) -> tuple[Path, Path]:
    """Training and held-out rows of the demo, as the pipeline makes them."""
    run = Run(lambda: load_recipe(find_recipe("demo", PROJECT)), PROJECT, folder / "artifacts")
    pipeline = Pipeline(run, LogReporter(logging.getLogger("rows")))
    pipeline.raw_dataset()
    validated = pipeline.validated_dataset().path
    held_out = folder / "held_out.parquet"
    pl.read_parquet(validated / EVALUATION_FILE).filter(pl.col("set") == HELD_OUT).write_parquet(held_out)
    return validated / TRAIN_FILE, held_out


def run_ours(rows: Path, held_out: Path, settings: TrainingSection) -> dict[str, float]:
    """The training stage."""
    figures, _ = train(PROJECT / "data" / "base_model", rows, held_out, settings, device="cpu")
    names = ("tokens_per_second", "held_out_loss", "trained_tokens", "steps", "micro_batch_rows", "accumulation_steps")
    return {name: float(str(figures[name])) for name in names}


def run_script(
    rows: Path, held_out: Path, settings: TrainingSection, *, batch: int, accumulation: int, order: str = "random"
) -> dict[str, float]:
    """What a person would write: Unsloth's model, TRL's trainer, tokenized rows."""
    os.environ.update(CUDA_VISIBLE_DEVICES="", TORCHDYNAMO_DISABLE="1", UNSLOTH_DISABLE_STATISTICS="1")
    os.environ["UNSLOTH_COMPILE_LOCATION"] = str(Path(tempfile.gettempdir(), "unsloth_compiled_cache"))
    import torch
    from unsloth import FastLanguageModel  # before TRL, which it patches

    model, tokenizer = FastLanguageModel.from_pretrained(
        str(PROJECT / "data" / "base_model"), max_seq_length=512, load_in_4bit=True, dtype=torch.float32
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=settings.lora.rank,
        lora_alpha=settings.lora.alpha,
        target_modules=list(settings.lora.target_modules),
        use_gradient_checkpointing=False,
        random_state=settings.seed,
    )
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    frame = pl.read_parquet(rows, columns=["input_ids", "labels"])
    tokens = int(sum(frame["input_ids"].list.len().to_list()) * settings.epochs)
    updates = math.ceil(len(frame) / (batch * accumulation) * settings.epochs)
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.lr_scheduler,
            warmup_steps=round(settings.warmup_share * updates),
            optim="adamw_torch",
            seed=settings.seed,
            bf16=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            gradient_checkpointing=False,
            train_sampling_strategy=order,
            logging_steps=1,
            disable_tqdm=True,
            report_to="none",
            save_strategy="no",
        )
        data = Dataset.from_dict(frame.to_dict(as_series=False))
        trainer = SFTTrainer(model=model, processing_class=tokenizer, train_dataset=data, args=config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    return {
        "tokens_per_second": tokens / seconds,
        "held_out_loss": _held_out_loss(model, held_out),
        "trained_tokens": tokens,
        "steps": trainer.state.global_step,
    }


def _held_out_loss(model: Any, held_out: Path) -> float:
    import torch

    model.eval()
    total, targets = 0.0, 0
    with torch.no_grad():
        for ids, labels in pl.read_parquet(held_out, columns=["input_ids", "labels"]).head(256).iter_rows():
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
            wanted = torch.tensor(labels[1:])
            total += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum", ignore_index=-100))
            targets += int((wanted != -100).sum())
    return total / targets


def _apart(kind: str, rows: Path, held_out: Path, settings: TrainingSection, **options: Any) -> dict[str, float]:
    arguments = [kind, str(rows), str(held_out), settings.model_dump_json(), json.dumps(options)]
    found: dict[str, float] = run_apart("benchmarks.training_cpu", arguments)
    return found


def compare_speed(
    rows: Path, held_out: Path, settings: TrainingSection, mean_tokens: float, pairs: int
) -> list[dict[str, Any]]:
    """The stage, then the script in both orders, again and again."""
    found = []
    for _ in range(pairs):
        ours = _apart("ours", rows, held_out, settings)
        batch = max(1, round(settings.effective_batch_tokens / mean_tokens / ours["accumulation_steps"]))
        options = {"batch": batch, "accumulation": int(ours["accumulation_steps"])}
        script = _apart("script", rows, held_out, settings, **options)
        grouped = _apart("script", rows, held_out, settings, **options, order="group_by_length")
        found.append({"ours": ours, "script": script, "grouped": grouped})
    return found


def compare_learning(
    rows: Path, held_out: Path, settings: TrainingSection, lengths: list[int], seeds: int
) -> list[dict[str, Any]]:
    """The planned layout against the guide's micro-batches, at the guide's tokens per update."""
    update_tokens = round(_GUIDE_ROWS * _GUIDE_ACCUMULATION * statistics.mean(lengths))
    execution = settings.execution.model_copy(update={"micro_batch_tokens": _GUIDE_ROWS * max(lengths)})
    found = []
    for seed in range(seeds):
        planned = settings.model_copy(update={"effective_batch_tokens": update_tokens, "seed": seed})
        micro = planned.model_copy(update={"execution": execution})
        found.append(
            {
                "planned": _apart("ours", rows, held_out, planned),
                "micro_batches": _apart("ours", rows, held_out, micro),
                "script": _apart(
                    "script", rows, held_out, planned, batch=_GUIDE_ROWS, accumulation=_GUIDE_ACCUMULATION
                ),
            }
        )
    return found


def compare(pairs: int, seeds: int) -> dict[str, Any]:
    """Run everything."""
    settings = load_recipe(find_recipe("demo", PROJECT)).training.model_copy(update={"epochs": _EPOCHS})
    with tempfile.TemporaryDirectory() as name:
        rows, held_out = prepare_rows(Path(name))
        lengths = list(read_row_lengths(rows))
        speed = compare_speed(rows, held_out, settings, statistics.mean(lengths), pairs)
        learning = compare_learning(rows, held_out, settings, lengths, seeds)
    machine = {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    return {"machine": machine, "speed": speed, "learning": learning}


def to_markdown(result: dict[str, Any]) -> str:
    """The figures for people."""
    lines = ["| tokens/s | ours | script | ours / script | script, grouped by length | ours / grouped |"]
    lines.append("| --- " * 6 + "|")
    ratios: dict[str, list[float]] = {"script": [], "grouped": []}
    for number, pair in enumerate(result["speed"], 1):
        rates = {name: pair[name]["tokens_per_second"] for name in ("ours", "script", "grouped")}
        for name, found in ratios.items():
            found.append(rates["ours"] / rates[name])
        cells = [f"{rates['ours']:,.0f}", f"{rates['script']:,.0f}", f"{ratios['script'][-1]:.2f}"]
        cells += [f"{rates['grouped']:,.0f}", f"{ratios['grouped'][-1]:.2f}"]
        lines.append(f"| pair {number} | {' | '.join(cells)} |")
    medians = [f"{statistics.median(found):.2f}" for found in ratios.values()]
    lines += [f"| median | | | {medians[0]} | | {medians[1]} |", ""]
    lines.append("| held-out loss | planned | guide's micro-batches, same rows | ratio | guide's script | ratio |")
    lines.append("| --- " * 6 + "|")
    for seed, found in enumerate(result["learning"]):
        losses = {name: found[name]["held_out_loss"] for name in ("planned", "micro_batches", "script")}
        lines.append(f"| seed {seed} | {_compare_losses(losses)} |")
    means = {
        name: statistics.mean(found[name]["held_out_loss"] for found in result["learning"])
        for name in ("planned", "micro_batches", "script")
    }
    lines.append(f"| mean | {_compare_losses(means)} |")
    first = result["learning"][0]
    lines += ["", f"{first['planned']['trained_tokens']:,.0f} tokens in {first['planned']['steps']:.0f} updates."]
    return "\n".join(lines) + "\n"


def _compare_losses(losses: dict[str, float]) -> str:
    planned = losses["planned"]
    cells = [f"{planned:.4f}"]
    for name in ("micro_batches", "script"):
        cells += [f"{losses[name]:.4f}", f"{planned / losses[name]:.3f}"]
    return " | ".join(cells)


@click.command()
@click.argument("step", nargs=-1)
@click.option("--pairs", default=5)
@click.option("--seeds", default=3)
def main(step: tuple[str, ...], pairs: int, seeds: int) -> None:
    """Compare; with arguments, one training for the comparison."""
    if step:
        kind, rows, held_out, settings_json, options = step
        settings = TrainingSection.model_validate_json(settings_json)
        if kind == "ours":
            report(run_ours(Path(rows), Path(held_out), settings))
        else:
            report(run_script(Path(rows), Path(held_out), settings, **json.loads(options)))
        return
    result = compare(pairs, seeds)
    write_results(RESULTS, "training_cpu", result, to_markdown(result))


if __name__ == "__main__":
    main()
