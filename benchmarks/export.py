"""Time and memory of an export: merge, 16-bit GGUF, Q4_K_M; ours beside PEFT's, Unsloth's and llama.cpp's own.

    python -m benchmarks.export --shape 1b --work FOLDER           # adds to results/export.{json,md}
    python -m benchmarks.export --shape 8b --work FOLDER --steps copy,peft    # in parts, with the same folder
    python -m benchmarks.export --shape 8b --work FOLDER --steps merge,convert

A base of random weights and a random adapter are made first. Each step runs in a process of its own; before it, what it
reads is read once and what earlier steps wrote is flushed. Ours are what a user waits for: built through the artifact
store, in the stages' own processes, verified, hashed, flushed and moved into place. The others are timed as their users
run them, with nothing flushed. What a step writes is removed as soon as no later step reads it.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from benchmarks.apart import run_apart
from benchmarks.export_inputs import SHAPES
from benchmarks.export_steps import STEPS, Job
from benchmarks.peak_memory import watching_memory
from benchmarks.tables import RESULTS, write_results

MERGE_TO_COPY, MERGE_GB, OWN_COST, END_TO_END = 1.25, 2.5, 0.03, 0.75
# What each step reads, and after which step nobody reads what it has written.
_READS = {
    "convert": ["merge"],
    "quantize": ["convert"],
    "quantize_same": ["convert"],
    "convert_ours": ["merge"],
    "gguf_ours": ["merge", "convert_ours"],
}
_LAST_READER = {"merge": "gguf_ours", "convert": "quantize_same", "convert_ours": "gguf_ours"}
_NAMES = {
    "copy": "copy of the base's shards (the floor)",
    "peft": "merge, PEFT on the CPU",
    "unsloth": "merge, Unsloth",
    "merge": "**merge, ours**",
    "convert": "f16 GGUF, llama.cpp's converter alone",
    "quantize": "Q4_K_M, llama.cpp's quantizer alone",
    "quantize_same": "Q4_K_M, the quantizer of our library alone",
    "convert_ours": "**f16 GGUF, ours**",
    "gguf_ours": "**Q4_K_M, ours**",
}
_BLOCK = 1 << 23
Section = dict[str, Any]


def run_step(step: str, job: Job) -> dict[str, Any]:
    """Do one step on a quiet disk, with what it reads in the kernel's cache, and measure it."""
    for source in _READS.get(step, ()):
        if not job.out(source).is_dir():
            raise click.ClickException(
                f"the step {step} reads what {source} writes, and {job.work} has none of it. Add {source} to --steps."
            )
    shutil.rmtree(job.out(step), ignore_errors=True)
    for folder in [job.out(source) for source in _READS.get(step, ())] or [job.base]:
        _read_through(folder)
    os.sync()
    with watching_memory() as memory:
        found: dict[str, Any] = run_apart("benchmarks.export_steps", [step, job.model_dump_json()])
    for written in (step, *STEPS):
        if _LAST_READER.get(written, written) == step:
            shutil.rmtree(job.out(written), ignore_errors=True)
    if "skipped" in found:
        return found
    found |= {"held_bytes": memory.held_bytes, "resident_bytes": memory.resident_bytes}
    # Steps that are measured in parts are compared with each other: when, tells how far apart they are.
    return found | {"measured_at": datetime.now(UTC).isoformat(timespec="seconds")}


def _read_through(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(_BLOCK):
                    pass


def compare(rows: dict[str, list[dict[str, Any]]]) -> list[tuple[str, float | None, float]]:
    """What the figures are for: name, value, and the most that it may be; None where a step is missing."""
    timed = {step: runs for step, runs in rows.items() if "skipped" not in runs[0]}
    seconds = {step: statistics.median(run["seconds"] for run in runs) for step, runs in timed.items()}
    merges = [seconds[step] for step in ("peft", "unsloth") if step in seconds]

    def ratio(ours: Sequence[str], others: Sequence[str], more: float | None = 0) -> float | None:
        if more is None or not {*ours, *others} <= set(seconds):
            return None
        return float(sum(seconds[step] for step in ours) / (sum(seconds[step] for step in others) + more))

    ggufs, alone = ("convert_ours", "gguf_ours"), ("convert", "quantize")
    own, whole = ratio(ggufs, alone), ratio(["merge", *ggufs], alone, min(merges, default=None))
    same = ratio(ggufs, ("convert", "quantize_same"))
    held = max((run["held_bytes"] / 1e9 for run in rows.get("merge", ())), default=None)
    return [
        ("merge / copy", ratio(["merge"], ["copy"]), MERGE_TO_COPY),
        ("memory that the merge holds, GB", held, MERGE_GB),
        ("own cost over llama.cpp's converter and quantizer", own and own - 1, OWN_COST),
        ("the same, with one library for both", same and same - 1, OWN_COST),
        ("merge to Q4_K_M / the best of the others", whole, END_TO_END),
    ]


def to_markdown(sections: list[Section]) -> str:
    """A table for each machine and shape, and memory against the size of the model for each machine."""
    lines = ["# Export: merge, f16 GGUF, Q4_K_M", ""]
    for section in sections:
        lines += _show_section(section)
    names = [_name_machine(section["machine"]) for section in sections]
    for name in dict.fromkeys(names):
        lines += _show_memory(name, [section for section, found in zip(sections, names, strict=True) if found == name])
    lines.append(
        "Seconds: the median of the runs, lowest and highest in brackets. Held: RssAnon + RssShmem of all processes of "
        "the step, every 20 ms. Resident: with mapped files. Flush: how long what a step left to the kernel takes to "
        "the disk; it is not in the seconds, and ours leave nothing. What a step reads is in the kernel's cache. No "
        "importance matrix, no LoRA GGUF. GB: 10^9 bytes."
    )
    return "\n".join(lines) + "\n"


def _show_section(section: Section) -> list[str]:
    machine = section["machine"]
    lines = [f"## {section['shape']} on {_name_machine(machine)}", ""]
    lines += ["| step | seconds | flush, s | held GB | resident GB | wrote GB |", "| --- " * 6 + "|"]
    lines += [_show_row(step, section["rows"][step]) for step in STEPS if step in section["rows"]]
    lines += ["", "| | measured | at most | |", "| --- " * 4 + "|"]
    for name, value, limit in compare(section["rows"]):
        if value is not None:
            lines.append(f"| {name} | {value:.3f} | {limit} | {'kept' if value <= limit else '**missed**'} |")
    versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items() if found)
    lines += ["", f"{versions}. llama.cpp of ours: {machine['llama_cpp']}."]
    if alone := section["rows"].get("quantize"):
        lines.append(f"Of the quantizer alone: {alone[-1]['llama_cpp']}.")
    times = sorted(run["measured_at"] for runs in section["rows"].values() for run in runs if "measured_at" in run)
    if times:
        lines.append(f"Measured from {times[0]} to {times[-1]}.")
    return [*lines, ""]


def _show_row(step: str, runs: list[dict[str, Any]]) -> str:
    if "skipped" in runs[0]:
        return f"| {_NAMES[step]} | {runs[0]['skipped']} | - | - | - | - |"
    seconds = [run["seconds"] for run in runs]
    spread = f" ({min(seconds):.1f} - {max(seconds):.1f})" if len(runs) > 1 else ""
    flush = statistics.median(run["flush_seconds"] for run in runs)
    peaks = [max(run[key] for run in runs) / 1e9 for key in ("held_bytes", "resident_bytes", "size_bytes")]
    held, resident, size = peaks
    gpu = max(run.get("gpu_peak_bytes", 0) for run in runs) / 1e9
    more = f" + {gpu:.1f} on the GPU" if gpu else ""
    median = statistics.median(seconds)
    return f"| {_NAMES[step]} | {median:.1f}{spread} | {flush:.1f} | {held:.2f}{more} | {resident:.2f} | {size:.2f} |"


def _show_memory(name: str, sections: list[Section]) -> list[str]:
    if len(sections) < 2:
        return []
    lines = [f"## Memory against size on {name}", ""]
    lines += ["| held GB | " + " | ".join(f"{s['shape']}, {s['base_bytes'] / 1e9:.1f} GB" for s in sections) + " |"]
    lines += ["| --- " * (1 + len(sections)) + "|"]
    for step in STEPS:
        found = [section["rows"].get(step, [{}]) for section in sections]
        cells = [max(run.get("held_bytes", 0) for run in runs) / 1e9 for runs in found]
        if any(cells):
            lines.append(f"| {_NAMES[step]} | {' | '.join(f'{cell:.2f}' if cell else '-' for cell in cells)} |")
    return [*lines, ""]


def _name_machine(machine: dict[str, Any]) -> str:
    # Without (PYTHONDONTWRITEBYTECODE) every process compiles what it imports: ten seconds more for torch and the like.
    bytecode = "" if machine["keeps_bytecode"] else ", no bytecode kept"
    gpu = machine["gpu"] or "none"
    return f"{machine['cores']} cores ({machine['cpu']}), {machine['ram_gib']} GiB, GPU: {gpu}{bytecode}"


def find_section(sections: list[Section], job: Job) -> Section:
    """The section of this machine and shape, which is added where there is none."""
    machine = run_apart("benchmarks.export_steps", ["machine", job.model_dump_json()])
    machine.pop("seconds")
    for section in sections:
        if (_name_machine(section["machine"]), section["shape"]) == (_name_machine(machine), job.shape):
            section["machine"] = machine
            return section
    section = {"machine": machine, "shape": job.shape, "rows": {}}
    sections.append(section)
    sections.sort(key=lambda section: (_name_machine(section["machine"]), list(SHAPES).index(section["shape"])))
    return section


def _parse_steps(_context: click.Context, _parameter: click.Parameter, value: str) -> list[str]:
    wanted = value.split(",")
    if unknown := set(wanted) - set(STEPS):
        raise click.BadParameter(f"steps are {', '.join(STEPS)}; got {', '.join(sorted(unknown))}")
    return [step for step in STEPS if step in wanted]


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder on the disk that is measured.")
@click.option("--steps", default=",".join(STEPS), callback=_parse_steps, help="Comma-separated; all of them else.")
@click.option("--repeat", default=1, help="All steps, one after the other, so many times.")
@click.option("--converter", type=click.Path(path_type=Path, exists=True), help="llama.cpp's converter.")
@click.option("--llama-baseline", type=click.Path(path_type=Path, exists=True), help="llama.cpp as it is distributed.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(  # noqa: PLR0913 - a command line
    *,
    shape: str,
    work: Path,
    steps: list[str],
    repeat: int,
    converter: Path | None,
    llama_baseline: Path | None,
    out: Path,
) -> None:
    """Measure the steps and write the tables after each."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    job = Job(shape=shape, work=work.resolve() / shape, converter=converter, llama_baseline=llama_baseline)
    path = out / "export.json"
    sections = json.loads(path.read_text(encoding="utf-8"))["sections"] if path.is_file() else []
    section = find_section(sections, job)
    if not (job.base / "config.json").is_file():
        shutil.rmtree(job.work, ignore_errors=True)
        run_apart("benchmarks.export_steps", ["inputs", job.model_dump_json()])
    section["base_bytes"] = sum(shard.stat().st_size for shard in job.base.glob("*.safetensors"))
    for number in range(repeat):
        for step in steps:
            found = run_step(step, job)
            section["rows"][step] = [*(section["rows"].get(step, []) if number else []), found]
            click.echo(f"{step}: {json.dumps(found)}")
            write_results(out, "export", {"sections": sections}, to_markdown(sections))


if __name__ == "__main__":
    main()
