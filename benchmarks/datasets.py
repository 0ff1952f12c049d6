"""Seconds and memory of the dataset stage on rows like GSM8K's, beside a bare loop of json.loads and two readers.

    .venv/bin/python benchmarks/datasets.py --data gsm8k.jsonl     # writes benchmarks/results/datasets.json and .md

The rows are recombined at random from sentences of that file, or of a small grammar without it, so few are near
duplicates of each other but the 4 % that are planted. Each case runs in processes of its own, and its figures hold
their start and their imports: wall time, processor time, and the largest sum of resident memory over all of them,
sampled ten times a second, shared pages counted in each.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parent.parent
RESULTS = PROJECT / "benchmarks" / "results"
_SAMPLE_SECONDS = 0.1
_NEAR_SHARE = 0.04
_MOST_ROWS = {"tokens": 1_000_000, "json.loads": 1_000_000, "datasets": 1_000_000, "polars": 1_000_000}
_OPTIONAL_CHECKS = ("not_nfc", "replacement_character", "secret", "email", "card_number", "refusal")
_WORDS = ("apples", "boxes", "coins", "dogs", "eggs", "friends", "gardens", "hours", "jars", "kites", "letters", "nuts")


@dataclass(frozen=True)
class Measurement:
    """One case on one number of rows.

    Attributes:
        seconds: Wall time of its parts, imports left out, where it says so.
    """

    case: str
    rows: int
    wall_seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    seconds: dict[str, float]


def load_each_line(data: Path, work: Path) -> dict[str, float]:
    """What no parser in Python can do without: the baseline, on one core."""
    del work
    started = time.monotonic()
    with data.open("rb") as lines:
        for line in lines:
            json.loads(line)
    return {"loop": time.monotonic() - started}


def check_structure(data: Path, work: Path) -> dict[str, float]:
    """Ours without tokens and optional text checks: structure, schema, exact and near duplicates, split."""
    off = dict.fromkeys([*_OPTIONAL_CHECKS, "control_character", "byte_order_mark"], "off")
    return _run_ours(data, work, None, {"checks": off})


def check_all(data: Path, work: Path) -> dict[str, float]:
    """Ours as it is by default, with the tokenizer of the demo's base."""
    return _run_ours(data, work, PROJECT / "data" / "base_model", {"max_row_tokens": 1024})


def _run_ours(data: Path, work: Path, base: Path | None, settings: dict[str, Any]) -> dict[str, float]:
    from ft_pipeline.datasets.parse import parse_sources
    from ft_pipeline.datasets.parse_request import ParseRequest
    from ft_pipeline.datasets.sources import find_sources
    from ft_pipeline.datasets.validate import validate_dataset
    from ft_pipeline.datasets.validated import ValidateRequest
    from ft_pipeline.processes.reporter import LogReporter
    from ft_pipeline.recipe import DatasetSection

    section = DatasetSection.model_validate({"sources": [data.name], "allowed_roots": ["."]} | settings)
    reporter = LogReporter(logging.getLogger(__name__))
    raw, valid = work / "raw", work / "valid"
    raw.mkdir()
    valid.mkdir()
    times = [time.monotonic()]
    sources = find_sources(section, data.parent, work / "downloads")
    parse_sources(ParseRequest(sources=sources, earlier=(), maker="benchmark", out_dir=raw), reporter)
    times.append(time.monotonic())
    request = ValidateRequest(
        raw=raw, base=base, base_identity="demo", maker="benchmark", settings=section, out_dir=valid
    )
    validate_dataset(request, reporter)
    times.append(time.monotonic())
    return {"parse": times[1] - times[0], "validate": times[2] - times[1]}


def load_with_datasets(data: Path, work: Path) -> dict[str, float]:
    """The reader of Hugging Face datasets alone."""
    # By its name as text: this file is called datasets too.
    loaded = importlib.import_module("datasets").load_dataset(
        "json", data_files=str(data), split="train", cache_dir=str(work)
    )
    return {"rows": float(len(loaded))}


def load_with_polars(data: Path, work: Path) -> dict[str, float]:
    """The reader of polars alone, all in memory."""
    del work
    return {"rows": float(importlib.import_module("polars").read_ndjson(data).height)}


CASES: dict[str, tuple[str, Callable[[Path, Path], dict[str, float]]]] = {
    "json.loads": ("a bare loop of `json.loads`, one core", load_each_line),
    "structure": ("ours: structure, schema, exact and near duplicates, split", check_structure),
    "tokens": ("ours: all checks, tokens and loss mask", check_all),
    "datasets": ('`datasets.load_dataset("json")` alone', load_with_datasets),
    "polars": ("`polars.read_ndjson` alone", load_with_polars),
}


def main(arguments: Sequence[str]) -> int:
    """Generate, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[200_000, 1_000_000, 3_000_000])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--data", type=Path, help="GSM8K as JSON lines: question, answer")
    parser.add_argument("--folder", type=Path, help="where the rows lie while it runs; default: the system's")
    parser.add_argument("--one", nargs=3, metavar=("CASE", "FILE", "WORK"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        case, data, work = options.one
        sys.stdout.write(json.dumps(CASES[case][1](Path(data), Path(work))) + "\n")
        return 0
    found: list[Measurement] = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory(prefix="ft_pipeline-benchmark-", dir=options.folder) as folder:
            data = Path(folder) / "rows.jsonl"
            write_rows(data, rows, options.data)
            for case in options.cases:
                if rows <= _MOST_ROWS.get(case, rows):
                    found.append(measure(case, data, rows))
                    sys.stderr.write(f"{found[-1]}\n")
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }
    RESULTS.mkdir(exist_ok=True)
    document = {"machine": machine, "measurements": [asdict(measurement) for measurement in found]}
    (RESULTS / "datasets.json").write_text(json.dumps(document, indent=1) + "\n")
    text = to_markdown(machine, found)
    (RESULTS / "datasets.md").write_text(text)
    sys.stdout.write(text)
    return 0


def write_rows(path: Path, count: int, data: Path | None) -> None:
    """Write chat rows of two turns; some repeat an earlier one but for one or two words."""
    draw = random.Random(17)
    questions, answers = _read_sentences(data) if data else _make_sentences(draw)
    recent: list[tuple[str, str]] = []
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            if recent and draw.random() < _NEAR_SHARE:
                question, answer = _edit(draw.choice(recent), draw)
            else:
                question = " ".join(draw.choices(questions, k=4))
                answer = "\n".join([*draw.choices(answers, k=4), f"#### {number}"])
                recent = [*recent[-999:], (question, answer)] if number % 20 == 0 else recent
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}) + "\n")


def _edit(row: tuple[str, str], draw: random.Random) -> tuple[str, str]:
    words = row[0].split(" ")
    for _ in range(draw.randint(1, 2)):
        words[draw.randrange(len(words))] = draw.choice(_WORDS)
    return " ".join(words), row[1]


def _read_sentences(data: Path) -> tuple[list[str], list[str]]:
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    questions = [part for row in rows for part in re.split(r"(?<=[.?!]) ", row["question"])]
    answers = [part for row in rows for part in row["answer"].split("\n") if not part.startswith("####")]
    return questions, answers


def _make_sentences(draw: random.Random) -> tuple[list[str], list[str]]:
    def sentence(verb: str) -> str:
        first, second, third = draw.sample(_WORDS, 3)
        return f"The {first} near the {second} {verb} {draw.randrange(2, 99)} {third} each day of the week."

    return [sentence("lost") for _ in range(20_000)], [sentence("thus have") for _ in range(20_000)]


def measure(case: str, data: Path, rows: int) -> Measurement:
    """Run one case in a fresh process; fail loudly if that fails."""
    with tempfile.TemporaryDirectory(dir=data.parent) as work:
        command = [sys.executable, str(Path(__file__)), "--one", case, str(data), work]
        # Without this script's folder first in the path, in which it would pass for Hugging Face's library.
        environment = os.environ | {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(PROJECT)}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE)
        peak = _watch(process)
        wall = time.monotonic() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        output = process.stdout.read() if process.stdout else b""
    if process.returncode:
        raise SystemExit(f"{case} on {rows} rows failed")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seconds = {name: round(value, 1) for name, value in json.loads(output).items()}
    return Measurement(case, rows, round(wall, 1), round(cpu, 1), peak, seconds)


def _watch(process: subprocess.Popen[bytes]) -> int:
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(_rss_bytes, _tree(process.pid))))
        time.sleep(_SAMPLE_SECONDS)
    return peak


def _tree(root: int) -> Iterator[int]:
    """A process and all below it."""
    yield root
    for children in Path(f"/proc/{root}/task").glob("*/children"):
        try:
            below = children.read_text().split()
        except OSError:
            continue
        for child in below:
            yield from _tree(int(child))


def _rss_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * resource.getpagesize()


def to_markdown(machine: dict[str, Any], found: Sequence[Measurement]) -> str:
    """The result as a table for people."""
    base = {row.rows: row.wall_seconds for row in found if row.case == "json.loads"}
    lines = [
        "# The dataset stage, measured by `benchmarks/datasets.py`",
        "",
        f"{machine['cores']} cores, {machine['architecture']}, Python {machine['python']}. Chat rows recombined from "
        f"sentences of GSM8K or like it, {_NEAR_SHARE:.0%} near duplicates planted. Start and imports included.",
        "",
        "| rows | case | wall, s | to `json.loads` | processor, s | peak memory, MB |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in found:
        ratio = f"{row.wall_seconds / base[row.rows]:.1f}" if row.rows in base else ""
        lines.append(
            f"| {row.rows:,} | {CASES[row.case][0]} | {row.wall_seconds:.1f} | {ratio} | {row.cpu_seconds:.1f} "
            f"| {row.peak_rss_bytes / 1e6:.0f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
