"""Tokens per second of the evaluation's runner beside llama-cpp-python row by row, and whether the answers are equal.

    python -m benchmarks.evaluation --batched-bench PROGRAM        # the demo's challenger; adds to results/evaluation.*
    python -m benchmarks.evaluation --shape 8b --device auto --count 64 --repeat 1

The same rows are put to the same file in turn: by `create_chat_completion` of llama-cpp-python on all cores, by the
pipeline's runner without a reference (plain batched decoding), and by it as the pipeline runs it, with the reference as
draft. Answers are compared token by token; where two part, the model is asked undisturbed how far apart the two tokens
lie. `llama-batched-bench` of the same llama.cpp tells what the machine gives at most.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from benchmarks.evaluation_limit import Job, measure_limits
from benchmarks.evaluation_model import SHAPES, write_random_gguf
from benchmarks.evaluation_page import Section, name_section, to_markdown
from benchmarks.evaluation_runs import BATCHED, DRAFTED, ROW_BY_ROW, Machine, Run, run_all
from benchmarks.evaluation_stage import PROJECT, find_newest, measure_stage
from benchmarks.evaluation_ties import find_differences, measure_rounding
from benchmarks.tables import RESULTS, write_results
from ft_pipeline.datasets.conversation import Message
from ft_pipeline.evaluation.offload import ScoringDevice, open_scoring_device
from ft_pipeline.evaluation.rows import EvaluationRow, read_rows
from ft_pipeline.evaluation.rules import HELD_OUT
from ft_pipeline.finetuning.device import GpuSettings

_TICKETS = PROJECT / "data" / "raw" / "tickets.jsonl"
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


RANDOM = "random-"
PARTS = SPEED, LIMIT, STAGE = "speed", "limit", "stage"


def load_rows(path: Path, count: int) -> list[EvaluationRow]:
    """The first rows to ask: the held-out ones of a validated data set, or those of a JSONL file with `messages`."""
    if path.suffix == ".parquet":
        return [row for row in read_rows(path, count) if row.set_name == HELD_OUT]
    lines = path.read_text(encoding="utf-8").splitlines()[:count]
    turns: list[tuple[Message, ...]] = [tuple(json.loads(line)["messages"]) for line in lines]
    return [EvaluationRow(HELD_OUT, number, row, path.name, number + 1) for number, row in enumerate(turns)]


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    rows: Sequence[EvaluationRow]
    max_new_tokens: int
    repeat: int


def measure_speed(gguf: Path, plan: Plan, machine: Machine) -> Section:
    """Seconds and tokens per second of each way and repetition, what was answered, and the work of a mean row."""
    runs = run_all(gguf, plan.rows, plan.max_new_tokens, machine, plan.repeat)
    speed = {
        name: {
            "seconds": [run.seconds for run in found],
            "cpu_seconds": [run.cpu_seconds for run in found],
            "tokens_per_second": [run.tokens_per_second for run in found],
            "tokens": sum(map(len, found[0].answers)),
        }
        for name, found in runs.items()
    }
    one = runs[ROW_BY_ROW][0]
    return {
        "rows": len(plan.rows),
        "max_new_tokens": plan.max_new_tokens,
        "speed": speed,
        "answers": compare_answers(gguf, runs, machine),
        "job": [round(statistics.mean(map(len, ids))) for ids in (one.prompts, one.answers)],
    }


def compare_answers(gguf: Path, runs: dict[str, list[Run]], machine: Machine) -> dict[str, Any]:
    """Our answers beside those of the row-by-row run, the first repetition of each."""
    theirs = runs[ROW_BY_ROW][0]
    rounding = measure_rounding(gguf, runs[BATCHED][0], theirs, machine)
    found: dict[str, Any] = {"rounding": asdict(rounding), "repeatable": {}}
    for name, repeated in runs.items():
        found["repeatable"][name] = sum(
            len({run.answers[row] for run in repeated}) == 1 for row in range(len(theirs.answers))
        )
    for name in (BATCHED, DRAFTED):
        ours = runs[name][0]
        differences = find_differences(gguf, ours, theirs, machine)
        found[name] = {
            "rows": len(ours.answers),
            "equal_prompts": _count_equal(ours.prompts, theirs.prompts),
            "equal_texts": _count_equal(ours.texts, theirs.texts),
            "equal_tokens": _count_equal(ours.answers, theirs.answers),
            "differences": [asdict(it) | {"tie": it.is_tie(rounding.largest)} for it in differences],
        }
    return found


def _count_equal(ours: Sequence[Any], theirs: Sequence[Any]) -> int:
    return sum(our == their for our, their in zip(ours, theirs, strict=True))


def describe_machine(machine: Machine) -> dict[str, Any]:
    """Whose figures these are."""
    import llama_cpp

    cpu = [line.partition(":")[2].strip() for line in _read_cpu() if line.startswith("model name")]
    return {
        "cores": machine.cores,
        "cpu": cpu[0] if cpu else platform.machine(),
        "gpu": machine.device.label if machine.device.is_gpu else "",
        "system": llama_cpp.llama_print_system_info().decode().strip(" |"),
        "versions": {"python": platform.python_version(), "llama-cpp-python": version("llama-cpp-python")},
    }


def _read_cpu() -> list[str]:
    return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()


def _open_device(wanted: str, folder: Path) -> AbstractContextManager[ScoringDevice]:
    return open_scoring_device(
        GpuSettings(wanted, folder),
        holder="benchmark",
        tell=lambda message: click.echo(message, err=True),
    )


@contextmanager
def _watch_load(loads: dict[str, list[float]], part: str) -> Iterator[None]:
    """How busy the machine is before and after goes with the figures: others on it slow threads that wait in loops."""
    before = os.getloadavg()[0]
    yield
    loads[part] = [before, os.getloadavg()[0]]


def _find_gguf(gguf: Path | None, shape: str | None, folder: Path) -> Path:
    if gguf is None and shape is None:
        gguf = find_newest("gguf_model/*/*-Q4_K_M.gguf")
    if gguf is not None:
        return gguf
    made = folder / f"{RANDOM}{shape or 'tiny'}-Q4_K_M.gguf"
    started = time.perf_counter()
    write_random_gguf(made, shape or "tiny")
    click.echo(f"{made.name}: {made.stat().st_size / 1e9:.2f} GB in {time.perf_counter() - started:.0f} s", err=True)
    return made


@click.command()
@click.option("--gguf", type=_FILE, help="The file; else the demo's challenger, else a random one.")
@click.option("--shape", type=click.Choice(list(SHAPES)), help="Make a file of random weights in this shape.")
@click.option("--rows", "rows_path", type=_FILE, help="Parquet of a validated data set, or JSONL with messages.")
@click.option("--count", default=200, help="Rows to ask.")
@click.option("--max-new-tokens", default=96)
@click.option("--repeat", default=3)
@click.option("--cores", default=len(os.sched_getaffinity(0)))
@click.option("--device", default="cpu", help="cpu, auto, or a GPU's index: it takes all layers.")
@click.option("--context-tokens", default=1024, help="The longest prompt and answer together.")
@click.option("--batched-bench", type=_FILE, help="llama.cpp's llama-batched-bench.")
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, default=PARTS, help="Only this; repeatable.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS)
def main(  # noqa: PLR0913 - a command line
    *,
    gguf: Path | None,
    shape: str | None,
    rows_path: Path | None,
    count: int,
    max_new_tokens: int,
    repeat: int,
    cores: int,
    device: str,
    context_tokens: int,
    batched_bench: Path | None,
    parts: tuple[str, ...],
    results: Path,
) -> None:
    """Measure, and write the section of this machine and file."""
    rows_path = rows_path or find_newest("validated_dataset/*/evaluation.parquet") or _TICKETS
    path = results / "evaluation.json"
    sections = json.loads(path.read_text(encoding="utf-8"))["sections"] if path.is_file() else []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ft_pipeline-benchmark-")))
        machine = Machine(cores, stack.enter_context(_open_device(device, folder)), context_tokens)
        gguf = _find_gguf(gguf, shape, folder)
        section: Section = {"machine": describe_machine(machine), "file": gguf.name, "bytes": gguf.stat().st_size}
        section["random"] = gguf.name.startswith(RANDOM)
        name = name_section(section)
        section = next((one for one in sections if name_section(one) == name), {}) | section
        plan = Plan(load_rows(rows_path, count), max_new_tokens, repeat)
        loads = section.setdefault("loads", {})
        if SPEED in parts:
            with _watch_load(loads, SPEED):
                section |= measure_speed(gguf, plan, machine)
        if LIMIT in parts and batched_bench:
            with _watch_load(loads, LIMIT):
                section["limits"] = measure_limits(batched_bench, gguf, Job(*section["job"]), machine, repeat)
        if STAGE in parts and shape is None and not machine.device.is_gpu:
            with _watch_load(loads, STAGE):
                section["stage"] = measure_stage(folder, repeat)
    sections = [one for one in sections if name_section(one) != name] + [section]
    write_results(results, "evaluation", {"sections": sections}, to_markdown(sections))


if __name__ == "__main__":
    main()
