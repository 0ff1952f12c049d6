"""What llama.cpp's own `llama-batched-bench` makes of a GGUF on this machine."""

from __future__ import annotations

import json
import statistics
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.evaluation_runs import Machine

PARALLEL = (1, 2, 4, 8, 16, 32)
# Cells of a sequence are rounded up to this.
_CELLS = 256
_TRIES = 3


@dataclass(frozen=True)
class Job:
    """The work of a mean row.

    Attributes:
        prompt_tokens: Of each prompt.
        new_tokens: Of each answer.
    """

    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class Limit:
    """Tokens per second of answers, by sequences decoded together.

    Attributes:
        copies: Programs that ran at once; the speeds are their sum.
        threads: Of each.
        flash_attention: Whether it was on.
        with_prompts: Median, lowest and highest, the prompts' time counted, by parallel sequences of a copy.
        without_prompts: The same, prompts not counted.
    """

    copies: int
    threads: int
    flash_attention: bool
    with_prompts: dict[int, list[float]]
    without_prompts: dict[int, list[float]]


def measure_limits(program: Path, gguf: Path, job: Job, machine: Machine, repeat: int) -> list[dict[str, Any]]:
    """A `Limit` each: one copy on all cores, with flash attention and without; on a CPU also a copy for each core."""
    plans = [(1, machine.cores)]
    if not machine.device.is_gpu and machine.cores > 1:
        plans.append((machine.cores, 1))
    found = []
    for copies, threads in plans:
        for flash in (False, True):
            command = _make_command(program, gguf, job, machine, threads, flash=flash)
            runs = [_run_copies(command, copies) for _ in range(repeat)]
            limit = Limit(
                copies,
                threads,
                flash,
                {pl: _spread([_sum_with_prompts(run[pl]) for run in runs]) for pl in PARALLEL},
                {pl: _spread([sum(row["speed_tg"] for row in run[pl]) for run in runs]) for pl in PARALLEL},
            )
            found.append(asdict(limit))
            best = max(median for median, _, _ in limit.with_prompts.values())
            click.echo(f"batched-bench, {copies} x {threads} threads: {best:.0f} tokens/s", err=True)
    return found


def _make_command(program: Path, gguf: Path, job: Job, machine: Machine, threads: int, *, flash: bool) -> list[str]:
    cells = -(-(job.prompt_tokens + job.new_tokens) // _CELLS) * _CELLS * max(PARALLEL)
    command = [str(program), "--model", str(gguf), "--ctx-size", str(cells), "--batch-size", "2048"]
    command += ["-npp", str(job.prompt_tokens), "-ntg", str(job.new_tokens), "-npl", ",".join(map(str, PARALLEL))]
    command += ["--threads", str(threads), "--threads-batch", str(threads), "--flash-attn", "on" if flash else "off"]
    command += ["--gpu-layers", str(machine.gpu_layers)]
    return [*command, "--output-format", "jsonl"]


def _run_copies(command: list[str], copies: int) -> dict[int, list[dict[str, Any]]]:
    """Rows of the tables of all copies, by parallel sequences."""
    error = ""
    # Now and then the program ends before its log has written the last row.
    for _ in range(_TRIES):
        started = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(copies)
        ]
        rows: dict[int, list[dict[str, Any]]] = {}
        for process in started:
            out, error = process.communicate()
            for row in (json.loads(line) for line in out.splitlines() if line.startswith("{")):
                rows.setdefault(row["pl"], []).append(row)
        if all(len(rows.get(parallel, ())) == copies for parallel in PARALLEL):
            return rows
    raise click.ClickException(f"{' '.join(command)} must give a whole table; it ends with:\n{error[-2000:]}")


def _sum_with_prompts(rows: list[dict[str, Any]]) -> float:
    return sum(float(row["pl"] * row["tg"] / row["t"]) for row in rows)


def _spread(values: list[float]) -> list[float]:
    return [statistics.median(values), min(values), max(values)]
