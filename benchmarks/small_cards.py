"""Models on cards that an H200 stands in for: the planned memory against the measured one.

    python -m benchmarks.small_cards --data gsm8k/train.jsonl      # writes results/small_cards.{json,md}

torch's allocator may hold the card's memory less the CUDA context. Each training runs the pipeline's own stage with
rows cut to full length, planned for that card, on a base of random weights.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.apart import run_apart
from benchmarks.random_base import make_base_apart
from benchmarks.tables import RESULTS, write_results


@dataclass(frozen=True)
class Case:
    """A model, the tokens of its rows, and the card in GiB."""

    shape: str
    row_tokens: int
    card_gib: int


CASES = [Case("8b", 2048, 10), Case("13b", 1024, 16), Case("13b", 2048, 24)]


def measure(case: Case, base: Path, data: Path | None) -> dict[str, Any]:
    """Train some steps."""
    arguments = ["--base", str(base), "--vram-gib", str(case.card_gib), "--row-tokens", str(case.row_tokens)]
    arguments += ["--steps", "5", "--warm-up", "2", *(["--data", str(data)] if data else [])]
    found: dict[str, Any] = run_apart("benchmarks.training_ours", arguments)
    return asdict(case) | found


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """One line a training."""
    heads = ["model", "rows of", "card GiB", "allocator may hold", "planned", "predicted GiB", "measured GiB"]
    heads += ["steps", "stepped down"]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for row in rows:
        layout = (
            f"{row['accumulation_steps']} x {row['micro_batch_rows']} rows, {row['checkpointed_layers']} layers twice"
            + (", embeddings on the host" if row["offload_embeddings"] else "")
        )
        lines.append(
            f"| {row['shape']} | {row['row_tokens']} | {row['card_gib']} | {row['card_gib'] - 1} | {layout} | "
            f"{row['predicted_reserved_bytes'] / 2**30:.2f} | {row['peak_reserved_bytes'] / 2**30:.2f} | "
            f"{row['steps']} | {row['stepped_down'] or 'no'} |"
        )
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="JSONL; else rows are made up.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where bases are made, and kept.")
@click.option("--at-once", default=1, help="Trainings side by side; their speed means nothing then.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(data: Path | None, folder: Path | None, at_once: int, out: Path) -> None:
    """Run all and write the table."""
    with tempfile.TemporaryDirectory() as scratch:
        bases = folder or Path(scratch)
        for shape in {case.shape for case in CASES}:
            if not (bases / shape).is_dir():
                make_base_apart(bases / shape, shape, data)
        with ThreadPoolExecutor(at_once) as pool:
            rows = list(pool.map(lambda case: measure(case, bases / case.shape, data), CASES))
    write_results(out, "small_cards", rows, to_markdown(rows))


if __name__ == "__main__":
    main()
