"""Seconds and memory of the demo: each stage, what is orchestration, and a rerun in which everything is reused.

    .venv/bin/python benchmarks/demo.py     # writes benchmarks/results/demo.json and demo.md

It runs the demo recipe twice through `dagster asset materialize`, in a fresh Dagster instance and an empty artifact
store. A stage's own time is what its artifact's manifest says, the start of its process and its imports included;
orchestration is the rest of the run: Dagster's start, the definitions, its events, the fingerprints.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ft_pipeline.artifacts import ArtifactStore

PROJECT = Path(__file__).parent.parent
RESULTS = PROJECT / "benchmarks" / "results"
_SAMPLE_SECONDS = 0.2
ORDER = [
    "raw_dataset",
    "validated_dataset",
    "data_report",
    "export_check",
    "trained_adapter",
    "merged_model",
    "gguf_model",
    "base_gguf",
    "evaluation_report",
]


@dataclass(frozen=True)
class Measurement:
    """Time and memory of one stage, or of one run of the demo.

    Attributes:
        peak_rss_bytes: Of a stage: the resident peak of its process; 0 where it has none of its own. Of a run: the
            largest sum over all its processes, sampled five times a second, shared pages counted in each.
    """

    wall_seconds: float
    peak_rss_bytes: int


@dataclass(frozen=True)
class Result:
    """What the benchmark found."""

    machine: dict[str, str | int]
    stages: dict[str, Measurement]
    first_run: Measurement
    rerun: Measurement

    @property
    def orchestration_seconds(self) -> float:
        """What the first run took beyond its stages."""
        return self.first_run.wall_seconds - sum(stage.wall_seconds for stage in self.stages.values())


def main() -> int:
    """Run, measure, write."""
    with tempfile.TemporaryDirectory(prefix="ft_pipeline-benchmark-") as folder:
        home = Path(folder)
        (home / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
        first = run_demo(home)
        # base_gguf is built inside the step of evaluation_report, as an artifact of its own.
        manifests = [artifact.manifest for artifact in ArtifactStore(home / "artifacts").list_artifacts()]
        rerun = run_demo(home)
    result = Result(
        machine={
            "cores": len(os.sched_getaffinity(0)),
            "architecture": platform.machine(),
            "python": platform.python_version(),
        },
        stages={m.asset: Measurement(m.wall_seconds, m.peak_rss_bytes or 0) for m in manifests},
        first_run=first,
        rerun=rerun,
    )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "demo.json").write_text(json.dumps(asdict(result), indent=1) + "\n")
    text = to_markdown(result)
    (RESULTS / "demo.md").write_text(text)
    sys.stdout.write(text)
    return 0


def run_demo(home: Path) -> Measurement:
    """Materialize all assets of the demo recipe; fail loudly if that fails."""
    environment = os.environ | {
        "DAGSTER_HOME": str(home),
        "FT_PIPELINE_ARTIFACTS": str(home / "artifacts"),
        "FT_PIPELINE_RECIPE": "demo",
    }
    command = [
        sys.executable,
        "-m",
        "dagster",
        "asset",
        "materialize",
        "--select",
        "*",
        "-m",
        "ft_pipeline.definitions",
    ]
    started = time.monotonic()
    with (home / "run.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        peak = _watch(process)
    if process.returncode:
        raise SystemExit((home / "run.log").read_text()[-5000:])
    return Measurement(round(time.monotonic() - started, 1), peak)


def _watch(process: subprocess.Popen[bytes]) -> int:
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(_rss_bytes(pid) for pid in _tree(process.pid)))
        time.sleep(_SAMPLE_SECONDS)
    return peak


def _tree(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _rss_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * resource.getpagesize()


def to_markdown(result: Result) -> str:
    """The result as a table for people."""
    first, rerun = result.first_run, result.rerun
    share = result.orchestration_seconds / first.wall_seconds
    stages = [
        f"| {name} | {stage.wall_seconds:.1f} | {_megabytes(stage)} |"
        for name, stage in sorted(result.stages.items(), key=lambda item: ORDER.index(item[0]))
    ]
    lines = [
        "# The demo, measured by `benchmarks/demo.py`",
        "",
        f"{result.machine['cores']} cores, {result.machine['architecture']}, Python {result.machine['python']}.",
        "",
        "| stage | seconds | peak memory, MB |",
        "| --- | ---: | ---: |",
        *stages,
        f"| orchestration ({share:.1%}) | {result.orchestration_seconds:.1f} | |",
        f"| **first run, all processes** | **{first.wall_seconds:.1f}** | **{_megabytes(first)}** |",
        f"| rerun, all reused, all processes | {rerun.wall_seconds:.1f} | {_megabytes(rerun)} |",
        "",
    ]
    return "\n".join(lines)


def _megabytes(measurement: Measurement) -> str:
    return f"{measurement.peak_rss_bytes / 1e6:.0f}" if measurement.peak_rss_bytes else ""


if __name__ == "__main__":
    sys.exit(main())
