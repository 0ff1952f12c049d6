"""Predicted against measured peak of the GPU's memory, for many shapes and layouts.

    python -m benchmarks.vram --part fit --data gsm8k/train.jsonl      # writes results/vram.{json,md}
    python -m benchmarks.vram --part check --data gsm8k/train.jsonl
    python -m benchmarks.vram --part check --data gsm8k/train.jsonl --at-once 4   # where the card holds so many

The rows of `fit` are among those that the constants of `ft_pipeline/finetuning/memory.py` were fitted to; those of
`check` are measured after the constants were committed. A base of random weights is made for each shape; each layout
runs three optimizer steps of the pipeline's own loop. Only measurements are kept: predictions are made anew for the
table.
"""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import click

from benchmarks.apart import report, run_apart
from benchmarks.random_base import SHAPES, make_base_apart, read_texts
from benchmarks.tables import RESULTS, write_results
from ft_pipeline.finetuning.architecture import read_architecture
from ft_pipeline.finetuning.memory import Layout, predict_memory
from ft_pipeline.recipe import LoraSection, TrainingSection

_STEPS = 3


@dataclass(frozen=True)
class Case:
    """One layout of one base.

    Attributes:
        row_tokens: Length of a row; a packed one is made of short rows.
        kept: Layers that are not computed twice; -1 for all.
    """

    shape: str
    rank: int
    rows: int
    row_tokens: int
    packing: bool
    kept: int = 0
    offload: bool = False

    @property
    def base(self) -> str:
        """What is loaded for it: shape and rank."""
        return f"{self.shape}:{self.rank}"


FIT = [
    Case("8b", 16, 1, 2048, packing=True),
    Case("8b", 16, 2, 2048, packing=False),
    Case("8b", 16, 4, 2048, packing=True),
    Case("8b", 16, 2, 8192, packing=True),
    Case("8b", 16, 2, 2048, packing=True, offload=True),
    Case("8b", 16, 4, 1024, packing=True, kept=-1, offload=True),
    Case("8b", 16, 2, 2048, packing=False, kept=8, offload=True),
    Case("1b", 64, 16, 512, packing=False),
    Case("1b", 64, 1, 8192, packing=True, kept=-1),
    Case("13b", 32, 1, 1024, packing=True),
    Case("13b", 32, 2, 2048, packing=True),
    Case("13b", 32, 2, 1024, packing=False, kept=-1),
    Case("8b", 128, 16, 512, packing=True, kept=16),
    Case("8b", 128, 2, 2048, packing=True, kept=4),
    Case("8b", 128, 4, 1024, packing=True, kept=12),
    Case("8b", 128, 2, 2048, packing=True, kept=24),
    Case("13b", 16, 4, 1024, packing=True, kept=10),
]
CHECK = [
    Case("7b", 8, 4, 512, packing=False),
    Case("7b", 8, 4, 2048, packing=True, kept=-1),
    Case("7b", 8, 1, 4096, packing=True),
    Case("1b", 128, 8, 1024, packing=True),
    Case("1b", 128, 2, 4096, packing=False, kept=-1),
    Case("8b", 128, 1, 8192, packing=True),
    Case("8b", 128, 1, 2048, packing=False, offload=True),
    Case("13b", 16, 1, 2048, packing=False),
]
PARTS = {"fit": FIT, "check": CHECK}


def measure(base: Path, texts: list[str], cases: list[Case]) -> list[dict[str, Any]]:
    """Load a base once and run these layouts, those last for which the embeddings go to the host for good."""
    from benchmarks.vram_run import Bench

    bench = Bench(base, cases[0].rank, texts)
    return [asdict(case) | bench.run(case, _STEPS) for case in sorted(cases, key=lambda case: case.offload)]


def predict(case: Case) -> float:
    """GiB that torch's allocator should hold at most."""
    architecture = read_architecture(SHAPES[case.shape])
    kept = architecture.layers if case.kept < 0 else case.kept
    layout = Layout(
        case.rows, case.row_tokens, case.packing, architecture.layers - kept, case.offload, optimizer="adamw_8bit"
    )
    training = TrainingSection(lora=LoraSection(rank=case.rank, alpha=case.rank))
    # A step here is one micro-batch.
    return predict_memory(architecture, training, layout, "gpu", accumulates=False).reserved_bytes / 2**30


def _measure_apart(base: str, part: str, data: Path | None, folder: Path) -> list[dict[str, Any]]:
    arguments = ["--part", part, "--only", base, "--folder", str(folder), *(["--data", str(data)] if data else [])]
    rows: list[dict[str, Any]] = run_apart("benchmarks.vram", arguments)
    return rows


def _to_markdown(rows: list[dict[str, Any]]) -> str:
    heads = ["measured", "shape", "rank", "micro-batch", "packed", "layers kept", "embeddings"]
    heads += ["predicted GiB", "measured GiB", "error"]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for row in rows:
        predicted = predict(Case(**{field.name: row[field.name] for field in fields(Case)}))
        error = predicted / row["measured_gib"] - 1
        lines.append(
            f"| {'fitted to' if row['part'] == 'fit' else 'after fitting'} | {row['shape']} | {row['rank']} | "
            f"{row['rows']} x {row['row_tokens']} | {'yes' if row['packing'] else 'no'} | {row['kept_layers']} | "
            f"{'host' if row['offload'] else 'GPU'} | {predicted:.2f} | {row['measured_gib']:.2f} | "
            f"{error:+.1%} ({predicted - row['measured_gib']:+.2f} GiB) |"
        )
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--part", type=click.Choice(sorted(PARTS)), required=True)
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="JSONL; else rows are made up.")
@click.option("--only", help="One base with its adapter, such as 8b:16; printed.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where bases are made, and kept.")
@click.option("--at-once", default=1, help="Bases that are measured side by side, each in its own process.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(*, part: str, data: Path | None, only: str | None, folder: Path | None, at_once: int, out: Path) -> None:
    """Measure all layouts of a part."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = folder or Path(scratch)
        if only:
            cases = [case for case in PARTS[part] if case.base == only]
            report(measure(folder / cases[0].shape, read_texts(data), cases))
            return
        for name in {case.shape for case in PARTS[part]}:
            if not (folder / name).is_dir():
                make_base_apart(folder / name, name, data)
        where = folder
        with ThreadPoolExecutor(at_once) as pool:
            bases = dict.fromkeys(case.base for case in PARTS[part])
            found = pool.map(lambda base: _measure_apart(base, part, data, where), bases)
            rows = [row | {"part": part} for rows in found for row in rows]
    kept = [row for row in _read(out / "vram.json") if row["part"] != part]
    rows = sorted(kept + rows, key=lambda row: row["part"] != "fit")
    write_results(out, "vram", rows, _to_markdown(rows))


def _read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


if __name__ == "__main__":
    main()
