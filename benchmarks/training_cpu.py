"""Speed and learning of the training stage on a CPU, against a bare script of Unsloth and TRL on the same rows.

    python -m benchmarks.training_cpu              # writes results/training_cpu.{json,md}

Speed: the demo's recipe, in pairs one after the other; real tokens over the seconds of the training loop. The script
gets the micro-batches of the plan as a fixed number of rows, grouped by length. Learning: the guide's micro-batches (2
rows x 4) against the planned ones at as many tokens per update and in all; the loss of the same held-out rows after.
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
from benchmarks.training_ours import train
from ft_pipeline.datasets.validated import EVALUATION_FILE, HELD_OUT, TRAIN_FILE, read_row_lengths
from ft_pipeline.pipeline import Pipeline
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.recipe import TrainingSection
from ft_pipeline.recipe_file import find_recipe, load_recipe
from ft_pipeline.run import Run

PROJECT = Path(__file__).parent.parent
RESULTS = PROJECT / "benchmarks" / "results"
_GUIDE_ROWS, _GUIDE_ACCUMULATION = 2, 4


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
    rows: Path, held_out: Path, settings: TrainingSection, *, batch: int, accumulation: int, epochs: float
) -> dict[str, float]:
    """What a person would write: Unsloth's model, TRL's trainer, tokenized rows."""
    os.environ.update(CUDA_VISIBLE_DEVICES="", TORCHDYNAMO_DISABLE="1", UNSLOTH_DISABLE_STATISTICS="1")
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
    tokens = int(sum(frame["input_ids"].list.len().to_list()) * epochs)
    updates = math.ceil(len(frame) / (batch * accumulation) * epochs)
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=epochs,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.lr_scheduler,
            warmup_steps=round(settings.warmup_share * updates),
            optim="adamw_torch",
            seed=settings.seed,
            bf16=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            gradient_checkpointing=False,
            train_sampling_strategy="group_by_length",
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


def _apart(kind: str, rows: Path, held_out: Path, settings: TrainingSection, **options: float) -> dict[str, float]:
    arguments = [kind, str(rows), str(held_out), settings.model_dump_json(), json.dumps(options)]
    found: dict[str, float] = run_apart("benchmarks.training_cpu", arguments)
    return found


def compare(pairs: int) -> dict[str, Any]:
    """Run everything."""
    settings = load_recipe(find_recipe("demo", PROJECT)).training
    with tempfile.TemporaryDirectory() as name:
        rows, held_out = prepare_rows(Path(name))
        mean = statistics.mean(read_row_lengths(rows))
        speed = []
        for _ in range(pairs):
            ours = _apart("ours", rows, held_out, settings)
            batch = max(1, round(settings.effective_batch_tokens / mean / ours["accumulation_steps"]))
            options = {"batch": batch, "accumulation": ours["accumulation_steps"], "epochs": settings.epochs}
            speed.append({"ours": ours, "script": _apart("script", rows, held_out, settings, **options)})
        update_tokens = round(_GUIDE_ROWS * _GUIDE_ACCUMULATION * mean)
        changed = settings.model_copy(update={"effective_batch_tokens": update_tokens})
        guide = {"batch": _GUIDE_ROWS, "accumulation": _GUIDE_ACCUMULATION, "epochs": settings.epochs}
        learning = {
            "ours": _apart("ours", rows, held_out, changed),
            "guide": _apart("script", rows, held_out, changed, **guide),
        }
    ratios = [pair["ours"]["tokens_per_second"] / pair["script"]["tokens_per_second"] for pair in speed]
    return {
        "machine": {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()},
        "speed": speed,
        "speed_ratio": statistics.median(ratios),
        "learning": learning,
        "loss_ratio": learning["ours"]["held_out_loss"] / learning["guide"]["held_out_loss"],
    }


def to_markdown(result: dict[str, Any]) -> str:
    """The figures for people."""
    lines = ["| what | ours | script | ours / script |", "| --- | --- | --- | --- |"]
    for number, pair in enumerate(result["speed"], 1):
        ours, script = (pair[name]["tokens_per_second"] for name in ("ours", "script"))
        lines.append(f"| tokens/s, pair {number} | {ours:,.0f} | {script:,.0f} | {ours / script:.2f} |")
    lines.append(f"| median of the pairs | | | {result['speed_ratio']:.2f} |")
    ours, guide = result["learning"]["ours"], result["learning"]["guide"]
    lines.append(
        f"| held-out loss, {ours['trained_tokens']:,.0f} and {guide['trained_tokens']:,.0f} tokens in "
        f"{ours['steps']:.0f} and {guide['steps']:.0f} updates | {ours['held_out_loss']:.4f} | "
        f"{guide['held_out_loss']:.4f} (the guide's 2 x 4 rows) | {result['loss_ratio']:.3f} |"
    )
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("step", nargs=-1)
@click.option("--pairs", default=5)
def main(step: tuple[str, ...], pairs: int) -> None:
    """Compare; with arguments, one training for the comparison."""
    if step:
        kind, rows, held_out, settings_json, options = step
        settings = TrainingSection.model_validate_json(settings_json)
        given = json.loads(options)
        if kind == "ours":
            found = run_ours(Path(rows), Path(held_out), settings)
        else:
            found = run_script(
                Path(rows),
                Path(held_out),
                settings,
                batch=int(given["batch"]),
                accumulation=int(given["accumulation"]),
                epochs=given["epochs"],
            )
        report(found)
        return
    result = compare(pairs)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "training_cpu.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "training_cpu.md").write_text(to_markdown(result), encoding="utf-8")
    click.echo(to_markdown(result))


if __name__ == "__main__":
    main()
