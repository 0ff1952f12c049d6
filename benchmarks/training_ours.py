"""The pipeline's own training stage on the rows of a benchmark.

python -m benchmarks.training_ours --base FOLDER --data gsm8k/train.jsonl --vram-gib 10     # one JSON object on stdout
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
from pathlib import Path
from typing import Any

import click
import polars as pl

from benchmarks.apart import report
from benchmarks.random_base import read_texts
from benchmarks.training_baselines import MAX_TOKENS, RANK, fill_rows
from ft_pipeline.finetuning.device import GpuSettings
from ft_pipeline.finetuning.job import HISTORY_FILE, TrainRequest
from ft_pipeline.finetuning.trainer import train_adapter
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.recipe import ExecutionSection, LoraSection, TrainingSection


def write_rows(path: Path, base: Path, texts: list[str], most_tokens: int) -> int:
    """Tokenize texts whole and write them as a validated file has them; all tokens are learned, as the baselines do.

    Returns:
        Tokens of all rows.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    ids = [found.ids[:most_tokens] for found in tokenizer.encode_batch(texts)]
    frame = pl.DataFrame(
        {"input_ids": ids, "labels": ids, "source_file": "rows", "source_line": range(1, len(ids) + 1)}
        | {"set": "held_out", "position": 0.5},
        schema_overrides={"input_ids": pl.List(pl.Int32), "labels": pl.List(pl.Int32), "source_line": pl.Int64},
    )
    frame.write_parquet(path)
    return sum(map(len, ids))


def take_tokens(texts: list[str], base: Path, tokens: int) -> list[str]:
    """The first texts that make up this many tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    taken, total = [], 0
    for text, found in zip(texts, tokenizer.encode_batch(texts), strict=True):
        if total >= tokens:
            break
        taken.append(text)
        total += len(found.ids)
    return taken


def train(
    base: Path,
    rows: Path,
    held_out: Path,
    settings: TrainingSection,
    *,
    device: str = "auto",
    vram_limit_bytes: int | None = None,
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Run the training stage in a folder that is removed.

    Returns:
        Its figures, and those of its steps.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out_dir = folder / "adapter"
        out_dir.mkdir()
        request = TrainRequest(
            base=base,
            base_name=base.name,
            rows=rows,
            held_out=held_out,
            settings=settings,
            gpu=GpuSettings(device, folder / "locks", vram_limit_bytes, wait_seconds=1),
            holder="benchmark",
            checkpoints=folder / "checkpoints",
            fingerprint="benchmark",
            out_dir=out_dir,
        )
        summary = train_adapter(request, LogReporter(logging.getLogger("training")))
        history = json.loads((out_dir / HISTORY_FILE).read_text(encoding="utf-8"))
    return dict(summary.figures), history


def measure(
    base: Path, texts: list[str], row_tokens: int, settings: TrainingSection, limit: int | None, warm_up: int
) -> dict[str, Any]:
    """Train on the texts, cut to `row_tokens`, within `limit` bytes, and measure the steps after the warm-up."""
    with tempfile.TemporaryDirectory() as name:
        rows, held_out = Path(name, "rows.parquet"), Path(name, "held_out.parquet")
        write_rows(rows, base, texts, row_tokens)
        write_rows(held_out, base, texts[:4], row_tokens)
        figures, history = train(base, rows, held_out, settings, vram_limit_bytes=limit)
    counted = history[warm_up:]
    tokens = [point["tokens_per_second"] * _step_seconds(history, warm_up + i) for i, point in enumerate(counted)]
    seconds = [_step_seconds(history, warm_up + i) for i in range(len(counted))]
    return figures | {
        "tokens_per_second": sum(tokens) / sum(seconds),
        "median_step_tokens_per_second": statistics.median(point["tokens_per_second"] for point in counted),
        "counted_steps": len(counted),
    }


def _step_seconds(history: list[dict[str, float]], index: int) -> float:
    return history[index]["seconds"] - (history[index - 1]["seconds"] if index else 0)


@click.command()
@click.option("--base", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="JSONL; else rows are made up.")
@click.option("--vram-gib", type=float, help="Stand in for a card of this size.")
@click.option("--row-tokens", type=click.IntRange(max=MAX_TOKENS), help="Rows of this length; else texts as they are.")
@click.option("--execution", default="{}", help="JSON of training.execution.")
@click.option("--batch-tokens", default=16384)
@click.option("--steps", default=14)
@click.option("--warm-up", default=5)
def main(  # noqa: PLR0913 - a command line
    *,
    base: Path,
    data: Path | None,
    vram_gib: float | None,
    row_tokens: int | None,
    execution: str,
    batch_tokens: int,
    steps: int,
    warm_up: int,
) -> None:
    """Measure the pipeline's training stage."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = TrainingSection(
        lora=LoraSection(rank=RANK, alpha=RANK),
        effective_batch_tokens=batch_tokens,
        execution=ExecutionSection.model_validate_json(execution),
    )
    texts = read_texts(data)
    if row_tokens:
        texts = fill_rows(texts, steps * batch_tokens // row_tokens)
    else:
        texts = take_tokens(texts, base, steps * batch_tokens)
    limit = None if vram_gib is None else int(vram_gib * 2**30)
    report(measure(base, texts, row_tokens or MAX_TOKENS, settings, limit, warm_up))


if __name__ == "__main__":
    main()
