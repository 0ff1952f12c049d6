"""Speed and memory of training on a GPU: the pipeline, the guide's script and plain TRL + PEFT, one after the other.

    python -m benchmarks.training --data gsm8k/train.jsonl      # writes results/training.{json,md}

A base of random weights in the 8B shape is made first. Each training runs in a process of its own. Speed is in real
tokens, padding left out, over the steps after a warm-up; peak is the most that torch's allocator has held, loading
included.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.apart import run_apart
from benchmarks.random_base import make_base_apart
from benchmarks.tables import RESULTS, write_results

# 6 FLOP a weight and token with every layer computed twice, 4 without, 7.5e9 weights, 790 TFLOP/s of an H200.
_LIMITS = {True: 17_500, False: 26_000}


@dataclass(frozen=True)
class Entry:
    """One training of the table."""

    name: str
    module: str
    arguments: tuple[str, ...]


_OURS, _BASELINES = "benchmarks.training_ours", "benchmarks.training_baselines"
_FULL_ROWS = ("--row-tokens", "2048", "--steps", "6", "--warm-up", "3")
_BY_TWO = (*_FULL_ROWS, "--vram-gib", "7", "--execution", '{"micro_batch_tokens": 4096}')
ENTRIES = [
    Entry("the guide's script", _BASELINES, ("guide", "--steps", "12", "--warm-up", "5")),
    Entry("plain TRL + PEFT", _BASELINES, ("plain", "--steps", "8", "--warm-up", "3")),
    Entry("ft_pipeline as a 10 GiB card", _OURS, ("--vram-gib", "10", "--steps", "12", "--warm-up", "4")),
    Entry("ft_pipeline", _OURS, ("--steps", "12", "--warm-up", "4")),
    # As many tokens an update as the guide's 8 rows; and full rows by as many tokens at once as the short ones above.
    Entry("ft_pipeline by the guide's updates", _OURS, ("--batch-tokens", "1224", "--steps", "30", "--warm-up", "10")),
    Entry("ft_pipeline as a 10 GiB card, rows of 2,048", _OURS, (*_FULL_ROWS, "--vram-gib", "10")),
    Entry("the guide's script, rows of 2,048", _BASELINES, ("guide", "--full", "--steps", "8", "--warm-up", "4")),
    Entry("ft_pipeline as a 7 GiB card, rows of 2,048 by two", _OURS, _BY_TWO),
]


def run_entry(entry: Entry, base: Path, data: Path | None) -> dict[str, Any]:
    """Train, and give what the process has measured."""
    arguments = [*entry.arguments, "--base", str(base), *(["--data", str(data)] if data else [])]
    return {"name": entry.name, **summarize(run_apart(entry.module, arguments))}


def summarize(figures: dict[str, Any]) -> dict[str, Any]:
    """What the table shows of one training's figures."""
    peak = figures["peak_reserved_bytes"] / 2**30 if "peak_reserved_bytes" in figures else figures["peak_reserved_gib"]
    kept = {"device", "tokens_per_second", "counted_steps"}
    ours = {"used_micro_batch_rows", "used_row_tokens", "used_checkpointed_layers", "used_offload_embeddings"}
    ours |= {"accumulation_steps", "predicted_reserved_bytes", "predicted_tokens_per_second"}
    return {key: value for key, value in figures.items() if key in kept | ours} | {"peak_reserved_gib": peak}


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """The table, with the ratios to the two baselines and the share of the limit."""
    speeds = {row["name"]: row["tokens_per_second"] for row in rows}
    guide, plain = (speeds.get(entry.name) for entry in ENTRIES[:2])
    lines = [
        "| what | real tokens/s | against the guide | against plain | share of the limit | peak GiB | predicted GiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        speed = row["tokens_per_second"]
        ratios = ["-" if not base or "2,048" in row["name"] else f"{speed / base:.1f}x" for base in (guide, plain)]
        limit = _LIMITS[bool(row.get("used_checkpointed_layers", 1))]
        predicted = row.get("predicted_reserved_bytes")
        lines.append(
            f"| {row['name']} | {speed:,.0f} | {' | '.join(ratios)} | {speed / limit:.0%} | "
            f"{row['peak_reserved_gib']:.2f} | {f'{predicted / 2**30:.2f}' if predicted else '-'} |"
        )
    device = ", ".join(sorted({row["device"] for row in rows}))
    return (
        "\n".join([*lines, "", f"{device}; an 8B of random weights, NF4, rank 16, GSM8K's rows unless said otherwise."])
        + "\n"
    )


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="JSONL; else rows are made up.")
@click.option("--base", type=click.Path(path_type=Path), help="Folder of the base; made there if it is missing.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(data: Path | None, base: Path | None, out: Path) -> None:
    """Run all and write the table."""
    with tempfile.TemporaryDirectory() as scratch:
        base = base or Path(scratch) / "8b"
        if not base.is_dir():
            make_base_apart(base, "8b", data)
        rows = []
        for entry in ENTRIES:
            rows.append(run_entry(entry, base, data))
            click.echo(json.dumps(rows[-1]))
    write_results(out, "training", rows, to_markdown(rows))


if __name__ == "__main__":
    main()
